"""Command lines as a trace may hold them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.cli.redaction import HIDDEN, redacted


def _one(*words: str) -> str:
    return " ".join(redacted(words, keep_text=True))


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("--token abc", "--token ***"),
        ("--hf-token abc x", "--hf-token *** x"),
        ("--hf_token=abc", "--hf_token=***"),
        ("-token abc", "-token ***"),
        ("--api-key abc", "--api-key ***"),
        ("--openai_api_key=abc", "--openai_api_key=***"),
        ("--db.password hunter2", "--db.password ***"),
        ("HF_TOKEN=abc", "HF_TOKEN=***"),
        ("aws_secret_access_key=abc", "aws_secret_access_key=***"),
        ("hf_abcdefghijklmnop", "***"),
        ("--x=hf_abcdefghijklmnop", "--x=***"),
        ("sk-proj-abcdefghijklmnop1234", "***"),
        ("ghp_abcdefghijklmnop1234", "***"),
        ("https://me:pass@host/path", "https://***@host/path"),
        ("https://token@host/path", "https://***@host/path"),
        ("https://host/path?token=abc&x=1", "https://host/path?token=***&x=1"),
        ("--use-auth-token --batch 2", "--use-auth-token --batch 2"),
    ],
)
def test_a_secret_is_hidden_where_it_is_given(typed: str, stored: str) -> None:
    assert _one(*typed.split()) == stored


@pytest.mark.parametrize(
    "typed",
    [
        "vlmtrace record --model org/name --max-new-tokens 32 -o a.pftrace",
        "train.py --tokenizer gpt2 --monkey business --keyboard qwerty",
        "--author jane --token-count 5 https://host/path@2",
        "me@example.org a=b",
    ],
)
def test_what_is_no_secret_stays_as_it_is(typed: str) -> None:
    assert _one(*typed.split()) == typed


def test_secrets_inside_code_are_hidden() -> None:
    assert _one("-c", "login(token='abc'); go()") == "-c login(token=***); go()"
    for scheme in ("Bearer", "Basic", "bearer"):
        assert "xyz" not in _one("-H", f"Authorization: {scheme} xyz")


def test_a_prompt_is_stored_as_its_length_and_hash_unless_text_is_kept() -> None:
    digest = hashlib.sha256(b"Who am I?").hexdigest()
    words = ["--prompt", "Who am I?", "--prompt=Who am I?", "x"]

    assert redacted(words, keep_text=True) == words
    assert redacted(words, keep_text=False) == [
        "--prompt",
        f"<9 characters, sha256 {digest}>",
        f"--prompt=<9 characters, sha256 {digest}>",
        "x",
    ]


@given(st.lists(st.text(max_size=12)), st.booleans())
def test_words_stay_as_many_as_they_were_and_doing_it_twice_changes_nothing(words: list[str], keep: bool) -> None:
    once = redacted(words, keep_text=True)

    assert len(redacted(words, keep_text=keep)) == len(words)
    assert redacted(once, keep_text=True) == once


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=30), st.text(max_size=10))
def test_a_token_of_the_hub_never_stays(secret: str, before: str) -> None:
    assert f"hf_{secret}" not in _one(f"{before}hf_{secret}")
    assert HIDDEN in _one(f"{before}hf_{secret}")
