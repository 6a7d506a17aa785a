"""Content hashes: independent of memory layout, and per column."""

import pyarrow as pa

from tasks.adapters.delta.content_hash import ContentHash, column_hashes


def test_content_hash_depends_on_content_not_layout() -> None:
    texts, numbers = ["a", None, "", "bc"], [1.0, None, 0.0, -2.5]
    table = pa.table({"t": texts, "n": numbers, "l": [[1.0], [], None, [2.0, 3.0]]})
    hashes = column_hashes(table)

    in_pieces = ContentHash()
    for part in (table.slice(0, 1), table.slice(1, 2), table.slice(3)):
        in_pieces.update(part)
    assert in_pieces.columns() == hashes

    def changed(**columns: object) -> set[str]:
        other = column_hashes(pa.table({name: columns.get(name, table[name]) for name in table.column_names}))
        return {name for name in hashes if other[name] != hashes[name]}

    assert changed() == set()
    assert changed(t=["a", "", "", "bc"]) == {"t"}, "null is not empty"
    assert changed(t=["a", None, "b", "c"]) == {"t"}, "text boundaries matter"
    assert changed(n=[1.0, 0.0, 0.0, -2.5]) == {"n"}, "null is not zero"
    assert changed(n=[None, 1.0, 0.0, -2.5]) == {"n"}
    assert changed(n=pa.array([1.0, None, 0.0, -2.5], pa.float32())) == {"n"}
    assert changed(l=[[1.0], None, [], [2.0, 3.0]]) == {"l"}
    assert changed(l=[[1.0, 2.0], [], None, [3.0]]) == {"l"}
