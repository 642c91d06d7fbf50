"""How every transaction ends: the blocks that nothing would write out any more, then one change for each start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store.blocks import write_out_stranded

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.store.transaction import Transaction


def settle(transaction: Transaction, told_anyway: Collection[str] = ()) -> None:
    """Writes one change for each start that has moved; `told_anyway` names those whose pause is over."""
    transaction.read(told_anyway)
    write_out_stranded(transaction, transaction.may_have_blocks())
    transaction.write()
