"""A chat with a memory, through OpenAI's own Python package.

    msadb serve notes
    export OPENAI_BASE_URL=http://127.0.0.1:7700/v1 OPENAI_API_KEY=msadb_...
    python3 examples/openai_chat.py default

Each line you type is asked, with the conversation so far as context. Turns are not stored; pass
{"msadb": {"remember": True}} to have them stored.
"""

import sys

import openai

client = openai.OpenAI()
collection = sys.argv[1] if len(sys.argv) > 1 else "default"
messages = []
for line in sys.stdin:
    messages.append({"role": "user", "content": line.strip()})
    print("assistant: ", end="", flush=True)
    answer, citations = "", []
    for chunk in client.chat.completions.create(model=collection, messages=messages, stream=True,
                                                extra_body={"msadb": {"remember": False}}):
        if chunk.choices:
            piece = chunk.choices[0].delta.content or ""
            answer += piece
            print(piece, end="", flush=True)
        citations = (chunk.model_extra or {}).get("msadb", {}).get("citations", citations)
    print()
    for citation in citations:
        print(f"    [{citation['id']}] {citation['text'][:70]}")
    messages.append({"role": "assistant", "content": answer})
