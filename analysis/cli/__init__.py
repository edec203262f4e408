"""The command line: every command reads its words, calls the library, and shows what came back."""
