"""Operations that are written together: those of a kind by few statements, and each by itself if one of them fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway.store.answering import Answer, record
from gateway.store.creating import Creation, create
from gateway.store.leases import Renew
from gateway.store.sending import Beginning, begin
from gateway.store.transaction import Later
from gateway.store.words import Claims

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from gateway.store.transaction import Transaction

_TOGETHER: Mapping[type, Callable[[Transaction, Sequence[Any]], Sequence[Any]]] = {
    Beginning: begin,
    Answer: record,
    Creation: create,  # last: nothing else sees what is being created
}
"""Operations of which a commit has many, and what runs them as one."""

_BESIDE_OTHERS = (Creation, Renew)
"""Operations that move nothing that is there: other gateways may write meanwhile."""

Results: TypeAlias = "list[tuple[asyncio.Future[Any], Any, BaseException | None]]"
"""What operations have come to: whose futures wait, and a result or an error for each."""


@dataclass(slots=True)
class Waiting:
    """An operation, and the future that waits for its result."""

    operation: Callable[[Transaction], Any]
    future: asyncio.Future[Any]


def moves(batch: Sequence[Waiting]) -> bool:
    """Whether any of these operations moves what is there."""
    return not all(isinstance(each.operation, _BESIDE_OTHERS) for each in batch)


def unanswered(batch: Sequence[Waiting], results: Results) -> list[Claims | tuple[str, int]]:
    """Returns what was claimed and begun, and will not be known to whoever wanted to send it."""
    found: list[Claims | tuple[str, int]] = []
    for waiting, (_, result, _) in zip(batch, results, strict=True):
        if isinstance(result, Claims):
            found.append(result)
        elif isinstance(waiting.operation, Beginning) and result is not None:
            found.append((waiting.operation.dispatch_id, result))
    return found


def attempt_all(transaction: Transaction, batch: Sequence[Waiting], is_own: Callable[[Exception], bool]) -> Results:
    """Runs operations: all in one savepoint, and if any of them fails, once more and each in its own."""
    if len(batch) > 1:
        results, error = _attempt(transaction, lambda t: _run_together(t, batch), is_own)
        if error is None:
            return [(waiting.future, result, None) for waiting, result in zip(batch, results, strict=True)]
    order = sorted(range(len(batch)), key=lambda place: isinstance(batch[place].operation, Creation))
    outcomes = {place: _attempt(transaction, batch[place].operation, is_own) for place in order}
    return [(waiting.future, *outcomes[place]) for place, waiting in enumerate(batch)]


def numbered(results: Results, head: int) -> Results:
    """Finishes results once it is known which revision was the newest before their transaction."""
    return [
        (future, result.of(head) if isinstance(result, Later) else result, error) for future, result, error in results
    ]


def _run_together(transaction: Transaction, batch: Sequence[Waiting]) -> list[Any]:
    """Runs operations in their order, then those of each kind in `_TOGETHER` that there are, as few statements."""
    results: list[Any] = [None] * len(batch)
    alike: dict[type, list[int]] = {kind: [] for kind in _TOGETHER}
    for place, waiting in enumerate(batch):
        if (kind := type(waiting.operation)) in alike:
            alike[kind].append(place)
        else:
            results[place] = waiting.operation(transaction)
    for kind, places in alike.items():
        if places:
            operations = [batch[place].operation for place in places]
            for place, result in zip(places, _TOGETHER[kind](transaction, operations), strict=True):
                results[place] = result
    return results


def _attempt(
    transaction: Transaction, operation: Callable[[Transaction], Any], is_own: Callable[[Exception], bool]
) -> tuple[Any, BaseException | None]:
    """Runs an operation. What is wrong with it alone is its own error; what is wrong with the store ends the batch."""
    try:
        return transaction.attempt(operation), None
    except Exception as error:
        if not is_own(error):
            raise
        return None, error  # it is handed to whoever asked
