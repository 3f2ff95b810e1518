"""The rival of bench_gpu_model: Qwen3-4B's shape with random weights in Hugging Face transformers,
bfloat16, on the same GPU. Prints tokens per second for encoding and for greedy decoding."""

import argparse
import statistics
import time

import torch
import transformers


def measure(repeat, run):
    run()
    times = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--generate", type=int, default=32)
    arguments = parser.parse_args()
    config = transformers.Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=40960, rope_theta=1e6)
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, "
          f"attention {model.config._attn_implementation}")
    with torch.inference_mode():
        for documents, tokens in ((1, 512), (32, 512), (8, 2048)):
            ids = torch.randint(0, config.vocab_size, (documents, tokens), device="cuda")
            seconds = measure(arguments.repeat, lambda: model.model(ids, use_cache=False))
            print(f"encode {documents:2} x {tokens:4} tokens: {documents * tokens / seconds:8.0f} "
                  "tokens/s")
        ids = torch.randint(0, config.vocab_size, (1, 216), device="cuda")
        count = arguments.generate

        def generate():
            model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False,
                           pad_token_id=0)

        seconds = measure(arguments.repeat, generate)
        print(f"decode {count} tokens: {count / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
