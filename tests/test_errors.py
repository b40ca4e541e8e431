import pickle

from alibi_lm.errors import SettingsError


def test_errors_come_home_from_worker_processes() -> None:
    error = pickle.loads(pickle.dumps(SettingsError(["a: x", "b: y"])))
    assert error.problems == ["a: x", "b: y"]
    assert str(error) == "a: x\nb: y"
