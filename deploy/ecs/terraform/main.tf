# The CloudFormation templates from Terraform, as they are: what they make stays CloudFormation's, which rolls a deployment
# back by itself. Terraform knows it as one resource, with the stack's outputs.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

variable "name" {
  description = "The stack's name; queues, bus, service and alarms are named after it."
  type        = string
}

variable "template" {
  description = "Which template: template.yaml, or an add-on."
  type        = string
  default     = "template.yaml"
}

variable "parameters" {
  description = "The template's parameters; lists as texts with commas between."
  type        = map(string)
}

resource "aws_cloudformation_stack" "this" {
  name               = var.name
  template_body      = file("${path.module}/../${var.template}")
  parameters         = var.parameters
  capabilities       = ["CAPABILITY_IAM"]
  timeout_in_minutes = 60
}

output "outputs" {
  description = "What the stack tells: QueueUrl, Table, Bucket, Url, Cluster and more."
  value       = aws_cloudformation_stack.this.outputs
}
