"""Notices of preemption are seen where each cloud puts them, here on loopback."""

from __future__ import annotations

import http.server
import json
import threading
import time
import warnings

import keras
import pytest

from loops import data, sequential
from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.errors import PersistWarning
from persist_callbacks.storage.store import Store
from persist_callbacks.watchers import AzureScheduledEvents, Ec2Spot, GcePreemption


@pytest.fixture
def metadata():
    """A server of metadata that asks for what the real ones ask for."""
    answers: dict[tuple[str, str], tuple[dict[str, str], str]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            wanted = answers.get((self.command, self.path))
            if wanted is None:
                self.send_error(404)
                return
            headers, text = wanted
            if any(self.headers.get(name) != value for name, value in headers.items()):
                self.send_error(401)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = _answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


TOKEN = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}


def ec2(action):
    return {
        ("PUT", "/latest/api/token"): (TOKEN, "abc\n"),
        ("GET", "/latest/meta-data/spot/instance-action"): (
            {"X-aws-ec2-metadata-token": "abc"},
            action,
        ),
    }


GCE = ("GET", "/computeMetadata/v1/instance/preempted")
AZURE = ("GET", "/metadata/scheduledevents?api-version=2020-07-01")


@pytest.mark.parametrize(
    ("watcher", "answers", "notice"),
    [
        (Ec2Spot, {}, None),
        (Ec2Spot, {("PUT", "/latest/api/token"): (TOKEN, "abc")}, None),
        (
            Ec2Spot,
            ec2('{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'),
            "EC2's notice to terminate this spot instance",
        ),
        (Ec2Spot, ec2("not JSON"), None),
        (Ec2Spot, ec2('{"action": "dance"}'), None),
        (GcePreemption, {}, None),
        (GcePreemption, {GCE: ({"Metadata-Flavor": "Google"}, "FALSE")}, None),
        (
            GcePreemption,
            {GCE: ({"Metadata-Flavor": "Google"}, "TRUE\n")},
            "Compute Engine's notice of preemption",
        ),
        (AzureScheduledEvents, {AZURE: ({"Metadata": "true"}, '{"Events": []}')}, None),
        (AzureScheduledEvents, {AZURE: ({"Metadata": "true"}, "[]")}, None),
        (
            AzureScheduledEvents,
            {
                AZURE: (
                    {"Metadata": "true"},
                    json.dumps({"Events": [{"EventType": "Preempt"}]}),
                )
            },
            "Azure's scheduled event Preempt",
        ),
    ],
)
def test_what_is_announced(watcher, answers, notice, metadata):
    """By the paths and headers of each cloud's own documentation."""
    url, served = metadata
    served.update(answers)
    assert watcher(url).notice() == notice


@pytest.mark.parametrize(
    ("resources", "name", "counts"),
    [
        (["set_0", "set_3"], "set_3\n", True),
        (["Set_3"], "set_3", True),
        (["set_0"], "set_3", False),
        (["set_0"], None, True),
        ([], "set_3", True),
        (None, "set_3", True),
    ],
)
def test_an_event_of_another_machine_of_the_set(resources, name, counts, metadata):
    """Azure tells all of them of it; what cannot be told apart counts."""
    url, served = metadata
    event = {"EventType": "Preempt", "Resources": resources}
    served[AZURE] = {"Metadata": "true"}, json.dumps({"Events": [event]})
    if name is not None:
        path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
        served["GET", path] = {"Metadata": "true"}, name
    assert (AzureScheduledEvents(url).notice() is not None) == counts


def test_nobody_there():
    """A machine that is not in that cloud has no such server."""
    for watcher in (Ec2Spot, GcePreemption, AzureScheduledEvents):
        assert watcher("http://127.0.0.1:9").notice() is None


def test_a_notice_stops_a_run_as_sigterm_does(metadata, tmp_path):
    """It is saved at the next step, by whatever thread the notice was seen."""
    url, served = metadata

    class Announces(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                served[GCE] = ({"Metadata-Flavor": "Google"}, "TRUE")
            time.sleep(0.05)

    x, y = data()
    watcher = GcePreemption(url, seconds=0.02)
    with pytest.raises(SystemExit) as ended:
        sequential().fit(
            x,
            y,
            batch_size=2,
            epochs=4,
            verbose=0,
            callbacks=[
                Announces(),
                PeriodicCheckpoint(
                    tmp_path / "run", watchers=[watcher], every_epochs=9, verbose=0
                ),
            ],
        )
    assert ended.value.code == 143
    (event,) = (
        event
        for event in Store.open_for_reading(tmp_path / "run").journal()
        if event["event"] == "stopped"
    )
    assert event["reason"] == "Compute Engine's notice of preemption"
    assert event["safe"]
    assert 3 <= event["step"] < 25


def test_one_that_raises_is_told_of_and_asked_again(tmp_path):
    """Its notice stops the run when it answers after all."""

    class Stumbles:
        seconds = 0.01
        asked = 0

        def notice(self):
            self.asked += 1
            if told and self.asked > 2:
                return "a notice"
            raise ConnectionError(f"no answer {self.asked}")

    class Told(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            told.extend(caught)
            time.sleep(0.02)

    told = []
    x, y = data()
    ours = PeriodicCheckpoint(tmp_path / "run", watchers=[Stumbles()], verbose=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PersistWarning)
        with pytest.raises(SystemExit):
            sequential().fit(
                x, y, batch_size=2, epochs=99, verbose=0, callbacks=[Told(), ours]
            )
    (warning,) = (each for each in caught if each.category is PersistWarning)
    assert str(warning.message) == (
        "Stumbles.notice() raised ConnectionError: no answer 1. It is asked again "
        "every 0.01 s; until it answers, no notice of its kind is seen."
    )
