"""Headers of GGUF files that are cut off, damaged or made to do harm: one error each, and nothing is read."""

import random
import struct
from pathlib import Path

import pytest
from gguf_files import random_model, write_model

from openqwq.errors import UserError
from openqwq.formats.gguf.config import model_config, tensor_table
from openqwq.formats.gguf.container import read_gguf
from openqwq.formats.gguf.tokenizer import tokenizer_files


def text(value):
    return struct.pack("<Q", len(value)) + value


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name, dims, kind, offset):
    form = f"<I{len(dims)}QIQ"
    return text(name) + struct.pack(form, len(dims), *dims, kind, offset)


def header(keys=(), tensors=(), *, version=3, num_keys=None, num_tensors=None, data=b"\0" * 4096):
    counts = (len(tensors) if num_tensors is None else num_tensors, len(keys) if num_keys is None else num_keys)
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*keys, *tensors]) + data


HUGE = 1 << 62
HOSTILE = {
    "empty": (b"", "no GGUF file"),
    "magic": (b"GGML" + header()[4:], "no GGUF file"),
    "magic alone": (b"GGUF", "cut off"),
    "version 1": (header(version=1), "version 1"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "tensors": (header(num_tensors=HUGE), f"{HUGE} tensors"),
    "keys": (header(num_keys=HUGE), f"{HUGE} keys"),
    "long name": (header([struct.pack("<Q", HUGE) + b"x"]), "cut off"),
    "no utf-8": (header([key(b"\xff\xfe", 4, b"\0" * 4)]), "UTF-8"),
    "twice": (header([key(b"a", 0, b"\1"), key(b"a", 0, b"\1")]), "twice"),
    "type": (header([key(b"a", 77, b"\0" * 8)]), "unknown type 77"),
    "array type": (header([key(b"a", 9, struct.pack("<IQ", 9, 1))]), "unknown type 9"),
    "array count": (header([key(b"a", 9, struct.pack("<IQ", 4, HUGE))]), f"{HUGE} values"),
    "texts": (header([key(b"a", 9, struct.pack("<IQ", 8, HUGE))]), f"{HUGE} values"),
    "alignment 0": (header([key(b"general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
    "alignment 48": (header([key(b"general.alignment", 4, struct.pack("<I", 48))]), "alignment"),
    "alignment text": (header([key(b"general.alignment", 8, text(b"32"))]), "alignment"),
    "no dims": (header(tensors=[tensor(b"t", [], 0, 0)]), "0 dimensions"),
    "nine dims": (header(tensors=[tensor(b"t", [1] * 9, 0, 0)]), "9 dimensions"),
    "zero dim": (header(tensors=[tensor(b"t", [0, 4], 0, 0)]), "shape"),
    "name": (header(tensors=[tensor(b"t" * 65, [4], 0, 0)]), "65 bytes"),
    "no blocks": (header(tensors=[tensor(b"t", [33], 2, 0)]), "rows of Q4_0"),
    "not here": (header(tensors=[tensor(b"t", [32], 39, 0)]), "MXFP4"),
    "nowhere": (header(tensors=[tensor(b"t", [32], 4242, 0)]), "4242"),
    "overflow": (header(tensors=[tensor(b"t", [HUGE, 8], 0, 0)]), "cut off"),
    "offset": (header(tensors=[tensor(b"t", [8], 0, HUGE)]), "begin at"),
    "overlap": (header(tensors=[tensor(b"t", [8], 0, 0), tensor(b"u", [8], 0, 0)]), "begin at byte 0, but must at 32"),
    "same": (header(tensors=[tensor(b"t", [8], 0, 0), tensor(b"t", [8], 0, 32)]), "twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_header_is_one_error(case, tmp_path):
    content, named = HOSTILE[case]
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_gguf(file)
    assert named in str(caught.value)


def test_sound_headers_are_read(tmp_path):
    keys = [
        key(b"general.alignment", 4, struct.pack("<I", 64)),
        key(b"t", 8, text("é".encode())),
        key(b"l", 9, struct.pack("<IQ3h", 3, 3, -1, 0, 2)),
        key(b"w", 9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b"")),
        key(b"f", 6, struct.pack("<f", 1e-5)),
        key(b"b", 7, b"\1"),
        key(b"n", 11, struct.pack("<q", -5)),
    ]
    content = header(keys, [tensor(b"x", [32, 3], 2, 0), tensor(b"y", [5], 30, 64)], version=2)
    (tmp_path / "m.gguf").write_bytes(content)
    file = read_gguf(tmp_path / "m.gguf")
    assert file.keys == {
        "general.alignment": 64, "t": "é", "l": [-1, 0, 2], "w": ["a", ""], "f": 1e-5, "b": True, "n": -5,
    }  # fmt: skip
    x, y = file.tensors["x"], file.tensors["y"]
    assert (x.kind, x.shape, x.num_bytes) == ("Q4_0", (3, 32), 54)
    assert (y.kind, y.shape, y.num_bytes) == ("BF16", (5,), 10)
    start = -(-(len(content) - 4096) // 64) * 64
    assert (x.start, y.start) == (start, start + 64)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_model(file, random_model({"model_type": "llama", "tie_word_embeddings": True, "num_hidden_layers": 1}))
    return file.read_bytes()


def describe(file):
    header = read_gguf(file)
    config = model_config(header)
    tensor_table(header, config)
    tokenizer_files(header)


def test_file_cut_off_anywhere_is_refused(small, tmp_path):
    file = tmp_path / "m.gguf"
    rng = random.Random(0)
    for length in [4, 8, 23, 24, 25, len(small) - 1, *(rng.randrange(len(small)) for _ in range(60))]:
        file.write_bytes(small[:length])
        with pytest.raises(UserError):
            describe(file)


def test_changed_bytes_of_a_header_end_in_an_error_or_a_model(small, tmp_path):
    file = Path(tmp_path / "m.gguf")
    rng = random.Random(1)
    end = small.index(b"output_norm.weight")
    refused = 0
    for _ in range(300):
        changed = bytearray(small)
        place = rng.choice([rng.randrange(4, 900), rng.randrange(4, end + 200)])
        changed[place] = rng.choice([0, 1, 255, 127, changed[place] ^ 1 << rng.randrange(8)])
        file.write_bytes(changed)
        try:
            describe(file)
        except UserError:
            refused += 1
    assert refused > 30
