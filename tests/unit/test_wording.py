"""What a provider says is kept without persons and accounts."""

from __future__ import annotations

import pytest

from paymaster.dispatch.wording import impersonal


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Account closed", "Account closed"),
        ("the look-up was refused", "the look-up was refused"),
        ("account DE89370400440532013000 of Erika Beispiel is closed", "account … of … is closed"),
        ("DE89 3704 0044 0532 0130 00 blocked", "… blocked"),
        ("limit of 50 exceeded", "limit of 50 exceeded"),
        ("account 123 456 789 012", "account 123 …"),
        ("payee o6_bmjrPTlm6_2sgVt7hMZOPfL2M unknown", "payee … unknown"),
        ("erika@mail.example is not registered", "… is not registered"),
        ("Konto von Erika Beispiel", None),
        ("", None),
        (None, None),
    ],
)
def test_words_of_the_trade_are_kept_and_nothing_else(said: str | None, kept: str | None) -> None:
    assert impersonal(said) == kept
