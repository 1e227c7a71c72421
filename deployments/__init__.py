"""What runs on a replica: engines, tasks, and the audio and text code that they use."""

import os

# ONNX Runtime reads this when it is first imported, by whichever engine or library. Otherwise it keeps an identifier of the
# machine below ~/.cache, and sends events about models, sessions and hardware to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
