"""`python -m rl4llm`: the same as the command `rl4llm`."""

from rl4llm.command import main

if __name__ == "__main__":
    main()
