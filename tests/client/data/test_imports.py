"""What reading data pulls in."""

import subprocess
import sys


def test_reading_and_encoding_data_load_no_torch() -> None:
    """A site can check its data without the training stack."""
    modules = ", ".join(f"partsong.client.data.{name}" for name in ("table", "encode", "batch"))
    code = f"import sys, {modules}; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"

    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
