"""Small mistakes put into the program, one at a time: the tests that concern it must notice each."""
