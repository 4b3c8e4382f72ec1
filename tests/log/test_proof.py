from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import DataLoss, InvalidRequest, LedgerError, RuleViolated
from ledger.log.checkpoint import Signer, encode_base64, sign_checkpoint
from ledger.log.merkle import Tree, leaf_hashes
from ledger.log.proof import Receipt, format_receipt, parse_receipt, verify_receipt

ENTRIES = [b"entry %d" % index for index in range(300)]


def receipt_of(signer: Signer, index: int, size: int, extra: bytes | None = None) -> str:
    tree = Tree(lambda *_: b"".join(leaf_hashes(ENTRIES[:256])))
    tree.commit(tree.extend(leaf_hashes(ENTRIES)))
    text = sign_checkpoint(signer.name, size, tree.root_at(size), signer)
    return format_receipt(index, tree.inclusion_proof(index, size), text, extra)


@given(st.data(), st.none() | st.binary(max_size=50))
def test_a_receipt_proves_its_entry_and_no_other(signer, data, extra):
    size = data.draw(st.integers(1, len(ENTRIES)))
    index = data.draw(st.integers(0, size - 1))
    text = receipt_of(signer, index, size, extra)
    receipt = parse_receipt(text)
    assert (receipt.index, receipt.extra) == (index, extra)
    assert format_receipt(*_fields(receipt)) == text
    assert verify_receipt(text, ENTRIES[index], [signer.verifier_key]).size == size
    with pytest.raises(DataLoss):
        verify_receipt(text, b"another", [signer.verifier_key])
    with pytest.raises(RuleViolated):
        verify_receipt(text, ENTRIES[index], [Signer.generate("x").verifier_key])


@given(st.data())
def test_no_changed_character_passes(signer, data):
    text = receipt_of(signer, 7, 300)
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = text[:place] + data.draw(st.characters().filter(lambda other: other != text[place])) + text[place + 1 :]
    with pytest.raises(LedgerError):
        verify_receipt(wrong, ENTRIES[7], [signer.verifier_key])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\n" + text,
        lambda text: text.replace("@v1", "@v2"),
        lambda text: text.replace("index 7", "index 07"),
        lambda text: text.replace("index 7\n", ""),
        lambda text: text.replace("index 7", "extra !!\nindex 7"),
        lambda text: text.replace("index 7", "index 7\nAAAA"),
        lambda text: text.replace("index 7", "index 7" + f"\n{encode_base64(bytes(32))}" * 64),
        lambda text: text.replace("\n\n", "\n", 1),
        lambda text: text.split("\n\n")[0],
    ],
)
def test_only_the_canonical_receipt_is_read(signer, change):
    with pytest.raises(InvalidRequest):
        parse_receipt(change(receipt_of(signer, 7, 300)))


def _fields(receipt: Receipt) -> tuple[int, tuple[bytes, ...], str, bytes | None]:
    return receipt.index, receipt.proof, receipt.checkpoint_text, receipt.extra
