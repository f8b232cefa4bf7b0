"""Write unicode_table.h: the code points that GPT-2's pattern classifies as letters, numbers and spaces.

The regular-expression engine under tiktoken classifies every code point, so that the table and the
engine cannot differ by Unicode version:  python unicode_table.py > unicode_table.h
"""

import tiktoken

BLOCK = 256  # code points per block; 32 of them share one 64-bit word, two bits each
CLASSES = {r"\p{L}": 1, r"\p{N}": 2, r"\s": 3}  # everything else is 0


def classes() -> bytearray:
    """The class of each code point, 0x110000 bytes."""
    every = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    single_bytes = {bytes([b]): b for b in range(256)}
    table = bytearray(0x110000)
    for pattern, value in CLASSES.items():
        matcher = tiktoken.Encoding("class", pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={})
        for char in matcher.decode(matcher.encode_ordinary(every)):  # what does not match is left out
            table[ord(char)] = value
    return table


def rows(items: list[str], per_line: int) -> str:
    """Comma-separated lines of a C initialiser."""
    return "".join("\t" + ", ".join(items[i : i + per_line]) + ",\n" for i in range(0, len(items), per_line))


def header(table: bytearray, version: str) -> str:
    """The C header: an index of blocks, up to the last one with a class, and the distinct blocks."""
    end = (max(c for c in range(len(table)) if table[c]) // BLOCK + 1) * BLOCK
    blocks: dict[bytes, int] = {}
    index = [blocks.setdefault(bytes(table[c : c + BLOCK]), len(blocks)) for c in range(0, end, BLOCK)]
    words = []
    for block in blocks:
        for start in range(0, BLOCK, 32):
            words.append(sum(block[start + i] << (2 * i) for i in range(32)))
    return f"""\
/*
 * Unicode {version}: letters, numbers and spaces, as tiktoken and tokenizers see them. Written by
 * unicode_table.py; not edited by hand. Read through llm_unicode_class() alone.
 */
// clang-format off
#define LLM_UNICODE_VERSION "{version}"
#define LLM_UNICODE_END 0x{end:x} /* from here on no code point has a class */

static const unsigned char llm_unicode_index[{len(index)}] = {{
{rows([str(i) for i in index], 24)}}};

static const unsigned long long llm_unicode_words[{len(words)}] = {{
{rows([f"0x{w:x}" for w in words], 5)}}};
"""


if __name__ == "__main__":
    print(header(classes(), "16.0"), end="")
