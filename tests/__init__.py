"""Tests of the package, in folders that mirror its own. They are never part of the wheel."""
