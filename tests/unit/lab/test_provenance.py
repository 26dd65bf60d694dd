"""What the record of a run says of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_edge.lab import provenance


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("images.npz", "images.npz"),
        ("../data/images.npz", "../data/images.npz"),
        ("/home/anna/images.npz", "images.npz"),
        ("--data=/home/anna/images.npz", "--data=images.npz"),
        ("{cwd}/data/images.npz", "data/images.npz"),
        ("--out={cwd}", "--out=."),
        ("site-002=matrix:/home/anna/noise.csv", "site-002=matrix:noise.csv"),
        (r"C:\Users\anna\images.npz", "images.npz"),
        (r"--start=\\server\share\anna\start", "--start=start"),
        ("/", "/"),
        ("sizes:20/10,10/5", "sizes:20/10,10/5"),
        ("natural:centers", "natural:centers"),
        ("fedhelp.lambda_j=0.4", "fedhelp.lambda_j=0.4"),
        ("ray://10.0.0.1:6379", "ray://10.0.0.1:6379"),
    ],
)
def test_a_recorded_argument_names_no_folder_of_this_machine(
    typed: str, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert provenance.without_folders(typed.replace("{cwd}", str(tmp_path))) == recorded
