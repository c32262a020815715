"""Session Orchestrator: durable agent sessions on SQS, DynamoDB and containers. The public names, and nothing else."""

from orchestrator.app import Orchestrator, S3Object
from orchestrator.context import Invocation, RetryPolicy, SessionContext, current_invocation
from orchestrator.errors import (
    AgentFailed,
    NoInvocation,
    NonDeterminismError,
    NonRetryable,
    NotSerializable,
    OperationFailed,
    OperationTimedOut,
    OrchestratorError,
    RegistrationError,
    StepFailed,
    StepInterrupted,
)
from orchestrator.payloads import InvalidPayload, PayloadTooLarge

__all__ = [
    "AgentFailed",
    "InvalidPayload",
    "Invocation",
    "NoInvocation",
    "NonDeterminismError",
    "NonRetryable",
    "NotSerializable",
    "OperationFailed",
    "OperationTimedOut",
    "Orchestrator",
    "OrchestratorError",
    "PayloadTooLarge",
    "RegistrationError",
    "RetryPolicy",
    "S3Object",
    "SessionContext",
    "StepFailed",
    "StepInterrupted",
    "current_invocation",
]
