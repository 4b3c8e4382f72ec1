"""Names in the bytes of many messages lead to the numbers that a dict has for them, also where their hashes collide."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import vectors, wire_columns

pytestmark = pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@pytest.mark.parametrize("slot_bits", [16, 1])
@given(st.data())
def test_names_lead_to_their_numbers(slot_bits, data):
    table = {name: SimpleNamespace(number=number) for number, name in enumerate(data.draw(st.sets(names, min_size=1, max_size=20)))}
    told = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=60))
    wire = wire_columns.lay([name.encode() for name in told], 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire_columns, "_SLOT_BITS", slot_bits)
        found = wire.numbers(table, wire_columns.Texts(wire.starts, wire.stops))
        assert found.tolist() == [table[name].number for name in told]
        missing = data.draw(st.sampled_from(told))
        with pytest.raises(KeyError):
            wire.numbers({name: row for name, row in table.items() if name != missing}, wire_columns.Texts(wire.starts, wire.stops))
