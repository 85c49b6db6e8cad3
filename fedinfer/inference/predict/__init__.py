"""Rows to answers: reading rows, the session, the predictor, explanations."""
