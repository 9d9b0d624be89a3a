"""`python -m online_draft`."""

from online_draft.cli import main

if __name__ == "__main__":
    main()
