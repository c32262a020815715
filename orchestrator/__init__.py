"""Session Orchestrator: durable agent sessions on SQS, DynamoDB and containers. The public names, and nothing else."""

from orchestrator.app import Orchestrator, S3Object
from orchestrator.calls import Approval, Callback, RetryPolicy
from orchestrator.context import SessionContext
from orchestrator.errors import (
    AgentFailed,
    ApprovalTimedOut,
    CallbackFailed,
    ChildSessionFailed,
    NoInvocation,
    NonDeterminismError,
    NonRetryable,
    NotSerializable,
    OperationFailed,
    OperationTimedOut,
    OrchestratorError,
    RegistrationError,
    SessionCancelled,
    StepFailed,
    StepInterrupted,
)
from orchestrator.invocation import Invocation, current_invocation
from orchestrator.payloads import InvalidPayload, PayloadTooLarge

__all__ = [
    "AgentFailed",
    "Approval",
    "ApprovalTimedOut",
    "Callback",
    "CallbackFailed",
    "ChildSessionFailed",
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
    "SessionCancelled",
    "SessionContext",
    "StepFailed",
    "StepInterrupted",
    "current_invocation",
]
