"""Deployment: real SuperLinks, SuperNodes, keys and enrolment."""
