"""Session Orchestrator: durable agent sessions on SQS, DynamoDB and containers. The public names, and nothing else.

They are imported when one of them is asked for: a container asks `orchestrator health` every few seconds, and whoever
imports any module below imports this one first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.agents.a2a import A2AAgent
    from orchestrator.agents.agentcore import AgentCoreAgent
    from orchestrator.agents.lambda_ import LambdaAgent
    from orchestrator.agents.strands import StrandsAgent
    from orchestrator.app import Orchestrator
    from orchestrator.budgets import Budget, Price
    from orchestrator.calls import Approval, Callback, RetryPolicy
    from orchestrator.context import SessionContext
    from orchestrator.cron import Occurrence
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
    from orchestrator.triggers import Event, S3Object

__all__ = [
    "A2AAgent",
    "AgentCoreAgent",
    "AgentFailed",
    "Approval",
    "ApprovalTimedOut",
    "Budget",
    "Callback",
    "CallbackFailed",
    "ChildSessionFailed",
    "Event",
    "InvalidPayload",
    "Invocation",
    "LambdaAgent",
    "NoInvocation",
    "NonDeterminismError",
    "NonRetryable",
    "NotSerializable",
    "Occurrence",
    "OperationFailed",
    "OperationTimedOut",
    "Orchestrator",
    "OrchestratorError",
    "PayloadTooLarge",
    "Price",
    "RegistrationError",
    "RetryPolicy",
    "S3Object",
    "SessionCancelled",
    "SessionContext",
    "StepFailed",
    "StepInterrupted",
    "StrandsAgent",
    "current_invocation",
]

if not TYPE_CHECKING:
    _AGENT_HOMES = ("agents.a2a", "agents.agentcore", "agents.lambda_", "agents.strands")

    def __getattr__(name: str) -> object:
        """Import all of them, once, so that they stand here as if they had been all along (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        homes = ("app", "budgets", "calls", "context", "cron", "errors", "invocation", "payloads", "triggers")
        for home in (*_AGENT_HOMES, *homes):
            there = vars(import_module(f"{__name__}.{home}"))
            globals().update({public: there[public] for public in __all__ if public in there})
        return globals()[name]

    def __dir__() -> list[str]:
        return __all__
