"""Session Orchestrator: durable agent sessions on SQS, DynamoDB and containers. The public names, and nothing else."""

from orchestrator.app import Orchestrator, S3Object
from orchestrator.context import RetryPolicy, SessionContext, current_invocation
from orchestrator.errors import (
    AgentFailed,
    NonDeterminismError,
    NonRetryable,
    OperationTimedOut,
    OrchestratorError,
    StepFailed,
    StepInterrupted,
)

__all__ = [
    "AgentFailed",
    "NonDeterminismError",
    "NonRetryable",
    "OperationTimedOut",
    "Orchestrator",
    "OrchestratorError",
    "RetryPolicy",
    "S3Object",
    "SessionContext",
    "StepFailed",
    "StepInterrupted",
    "current_invocation",
]
