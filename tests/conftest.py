"""What all tests share: the numerics of a script under test, and less chatter."""

import os

import pytest

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def deterministic():
    """Let TensorFlow repeat itself bit by bit, and not in the tests after this one."""
    import tensorflow as tf
    from tensorflow.python.framework import config

    tf.config.experimental.enable_op_determinism()
    yield
    config.disable_op_determinism()


@pytest.fixture
def processes_apart(monkeypatch):
    """Let a finished run be run again as by another process, which gives no warning."""
    from persist_callbacks import handing_over

    monkeypatch.setattr(handing_over, "is_of_another", lambda *_: False)


@pytest.fixture
def synchronous(monkeypatch):
    """Let every save be done when its step begins, however fast the steps are."""
    from loops import save_at_once

    save_at_once(monkeypatch)
