"""Fair comparison: same model, same prompts, same process, text checked before speed."""
