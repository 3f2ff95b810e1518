"""An agent that remembers: what you say is kept, and what fits is recalled before it answers.

    python3 examples/python_agent_memory.py FOLDER

Type a sentence and it is remembered; end with "?" and it is answered from everything said before, also in
earlier runs. "forget KEY" takes back one turn. The reply of a large language model would go where `reply`
is: give it the recalled turns as context.
"""

import sys
from datetime import datetime, timezone

import msadb


def reply(memory: msadb.Collection, question: str) -> str:
    """Streams the answer to the terminal as it is made, and says what it rests on."""
    with memory.ask(question, timeout=120, stream=True) as pieces:
        for piece in pieces:
            print(piece, end="", flush=True)
        answer = pieces.answer
    print()
    for citation in answer.citations:
        print(f"  from {citation.key}: {citation.text}")
    return answer.text


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with msadb.open(sys.argv[1]) as database:
        memory = database.collection("agent")
        print(f"{len(memory)} turns in memory")
        for line in map(str.strip, sys.stdin):
            try:
                if line.startswith("forget "):
                    memory.delete(key=line.removeprefix("forget "))
                    print("forgotten")
                elif line.endswith("?"):
                    reply(memory, line)
                elif line:
                    now = datetime.now(timezone.utc)
                    key = f"turn/{now:%Y%m%d-%H%M%S-%f}"
                    memory.insert(f"The user said: {line}", key=key, metadata={"role": "user"})
                    print(f"remembered as {key}")
            except msadb.Error as error:
                print(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
