"""The device's part of a private sum: check the plan, make the contribution, answer the stages."""
