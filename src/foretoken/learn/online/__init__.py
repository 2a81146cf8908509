"""Learning a drafter from live traffic: buffer, choice of samples, updates behind a gate."""
