"""Rollout: waves, gates, decisions. Bytes and figures in, decision out."""
