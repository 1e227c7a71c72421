"""VibeVoice-Realtime: text is read in small windows while its audio is generated; many streams as one batch."""
