"""docs/recipes.md: each program on the page runs, and gives the live model's numbers.

Skipped where a runtime or compiler is not there; CONTRIBUTING.md says how to get them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf1

from persist_callbacks import FrozenGraphExport

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
RECIPES = dict(
    re.findall(r"<!-- recipe: (\S+) -->\n```\w+\n(.*?)```", PAGE.read_text(), re.S)
)
NEEDED = {
    "opencv.py": ("cv2",),
    "openvino.py": ("openvino",),
    "onnx.py": ("onnxruntime", "tf2onnx"),
}
PICTURES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the PB and the pictures, and what the live model gives."""
    folder = tmp_path_factory.mktemp("recipes")
    keras.utils.set_random_seed(1)
    picture = keras.Input((32, 32, 3), name="picture")
    x = keras.layers.Conv2D(8, 3, use_bias=False)(picture)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4, activation="softmax", name="scores")(x)
    model = keras.Model(picture, x)
    model.compile("sgd", "sparse_categorical_crossentropy")
    export = FrozenGraphExport(folder / "model.pb")
    model.fit(PICTURES, np.array([0, 3]), verbose=0, callbacks=[export])
    np.save(folder / "pictures.npy", PICTURES)
    PICTURES.tofile(folder / "pictures.raw")
    return folder, np.asarray(model(PICTURES, training=False))


def run(*command):
    """Run a command; fail with what it said."""
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


def place(name, exported, tmp_path):
    """Lay a recipe beside copies of what it reads."""
    for file in exported[0].iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / name).write_text(RECIPES[name])
    return tmp_path / name


def compiler(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}")
    return found


def check(found, exported):
    np.testing.assert_allclose(found, exported[1], rtol=1e-4, atol=1e-5)


def test_every_recipe_is_tested():
    """A program that is added to the page is run here too."""
    assert sorted(RECIPES) == [
        *("capi.c", "onnx.py", "opencv.cpp", "opencv.py", "openvino.py"),
        "tensorflow1.py",
    ]


@pytest.mark.parametrize("name", NEEDED)
def test_python_recipe(name, exported, tmp_path, monkeypatch):
    """OpenCV, OpenVINO and ONNX Runtime, each in a process of its own."""
    for module in NEEDED[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: it comes with the extra `clients`")
    script = place(name, exported, tmp_path)
    monkeypatch.chdir(tmp_path)
    # The file's own folder is searched first: it must not be taken for the library.
    run(sys.executable, script.rename(script.with_name(f"recipe_{name}")))
    check(np.load(tmp_path / "scores.npy"), exported)


@pytest.mark.parametrize("version", ["1.15", "2"])
def test_tensorflow_recipe(version, exported, tmp_path, monkeypatch):
    """The program for TensorFlow 1.15 runs there, and in TensorFlow 2."""
    interpreter = tf1.python() if version == "1.15" else sys.executable
    if interpreter is None:
        pytest.skip("no TensorFlow 1.15: TF1_PYTHON names none")
    script = place("tensorflow1.py", exported, tmp_path)
    monkeypatch.chdir(tmp_path)
    run(interpreter, script)
    check(np.load(tmp_path / "scores.npy"), exported)


def test_c_api_recipe(exported, tmp_path, monkeypatch):
    """TensorFlow's C API, from inside of its Python package."""
    where = tf.sysconfig.get_lib()
    libraries = [f"libtensorflow_{name}.so.2" for name in ("cc", "framework")]
    if not all(os.path.exists(os.path.join(where, each)) for each in libraries):
        pytest.skip("this TensorFlow comes without libtensorflow_cc.so.2")
    source = place("capi.c", exported, tmp_path)
    monkeypatch.chdir(tmp_path)
    run(
        *(compiler("gcc"), source, "-o", "capi", f"-I{where}/include", f"-L{where}"),
        *(f"-Wl,-rpath,{where}", *(f"-l:{each}" for each in libraries)),
    )
    run("./capi")
    check(np.fromfile("scores.raw", np.float32).reshape(2, 4), exported)


def test_opencv_in_cpp_recipe(exported, tmp_path, monkeypatch):
    """OpenCV's C++ library, where pkg-config knows it."""
    asked = subprocess.run(
        [compiler("pkg-config"), "--cflags", "--libs", "opencv4"],
        capture_output=True,
        text=True,
    )
    if asked.returncode != 0:
        pytest.skip("no opencv4 that pkg-config knows")
    source = place("opencv.cpp", exported, tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = asked.stdout.split()
    run(compiler("g++"), "-std=c++17", source, "-o", "opencv", *flags)
    run("./opencv")
    check(np.fromfile("scores.raw", np.float32).reshape(2, 4), exported)
