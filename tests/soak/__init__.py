"""Scripts that kill training runs and compare what becomes of them; no test files."""
