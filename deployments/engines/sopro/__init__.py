"""Sopro v2: a streaming voice-cloning model (English, Portuguese, French, German), many streams as one batch."""
