"""4: which drafts stand: pure rules, one file each."""
