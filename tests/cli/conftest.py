import pytest


@pytest.fixture(autouse=True)
def _wide_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has set for a terminal must not change what a test sees."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONIOENCODING", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
