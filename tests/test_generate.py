"""`glsnet generate` and the services behind it, as processes, with the embedded pair."""

import signal
import subprocess
from typing import Any

import grpc
import pytest
from processes import GLSNET, Service, glsnet, printed, service, until

from glsnet.transport import speculating
from glsnet.v1 import generation_pb2 as pb

PROMPT = "Question: Ann has 4 cats and 3 dogs. How many pets has she?\nAnswer:"
SHORT = ("--prompt", PROMPT, "--max-tokens", "24", "--seed", "7")


def generated(*arguments: str) -> dict[str, Any]:
    return printed("generate", *SHORT, "--json", *arguments)


def drafting(address: str) -> int:
    """How many streams are drafted on."""
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(speculating.STATUS, pb.StatusRequest.SerializeToString, pb.StatusReply.FromString)
        reply = ask(pb.StatusRequest())
        assert isinstance(reply, pb.StatusReply)
        return reply.drafting


def test_text_comes_from_servers_as_it_does_from_this_process() -> None:
    strong = ("--scheme", "gls-strong", "--drafts", "2")
    here, one = generated(*strong), generated("--scheme", "none")
    with service("encoder_service", "target", "--streams", "2", "--seed", "0") as target:
        assert generated(*strong, "--target", target.address)["tokens"] == here["tokens"]  # nobody drafts yet
        with service("decoder_service", "draft", "--target", target.address) as first, \
                service("decoder_service", "draft", "--target", target.address, "--streams", "1") as second:
            until(lambda: drafting(target.address) == 2)
            over = generated(*strong, "--target", target.address)
            assert over["tokens"] == here["tokens"] and over["text"] == here["text"]
            assert over["agreed"] == here["agreed"] and max(over["agreed"]) > 0
            assert over["block_efficiency"] > 1 and over["metrics"]["up"]["stream"] > over["metrics"]["up"]["protobuf"]
            for scheme in ("daliri", "gls"):
                assert generated("--target", target.address, "--scheme", scheme, "--drafts", "1")["tokens"] \
                    == one["tokens"]
            shown = glsnet("generate", *SHORT, *strong, "--target", target.address)
            assert shown.stdout == here["text"] + "\n" and "24 tokens in" in shown.stderr
            refused = glsnet("generate", *SHORT, "--target", target.address, "--drafts", "3", code=2)
            assert "drafts: expected K up to 2, the target's streams, got 3" in refused.stderr
            assert second.stop()[0] == 0
            assert generated(*strong, "--target", target.address)["tokens"] == here["tokens"]
            code, log = target.stop(signal.SIGINT)
            assert code == 0 and log.rstrip().endswith("stopped")
            code, log = first.ended()
            assert code == 1 and "encoder" in log


def test_a_draft_server_with_another_seed_says_so_and_ends() -> None:
    with service("encoder_service", "target") as target:
        code, log = Service("decoder_service", "draft", "--target", target.address, "--seed", "1").ended()
        assert code == 1 and "seed_digest: the encoder has" in log
        assert generated("--target", target.address, "--scheme", "none")["tokens"]


def test_any_grpc_client_can_generate() -> None:
    with service("encoder_service", "target") as target, grpc.insecure_channel(target.address) as channel:
        call = channel.unary_stream(speculating.METHOD, pb.GenerateRequest.SerializeToString,
                                    pb.GenerateReply.FromString)
        replies = list(call(pb.GenerateRequest(prompt=PROMPT, seed=7, max_tokens=24, scheme="none")))
        assert "".join(reply.piece.text for reply in replies) == generated("--scheme", "none")["text"]
        assert replies[-1].finished.tokens == 24 and replies[-1].finished.reason == "length"
        with pytest.raises(grpc.RpcError) as caught:
            list(call(pb.GenerateRequest(prompt=PROMPT, scheme="guess")))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("arguments", "text"), [
    (("--target-model", "no such model"), "model: expected embedded-target, embedded-drafter, a folder with"),
    (("--scheme", "guess"), "scheme: expected one of"),
    (("--scheme", "daliri", "--drafts", "2"), "drafts: expected K = 1 for scheme daliri, got 2"),
    (("--temperature", "-1"), "temperature: expected 0"),
    (("--target", "nowhere"), "address: expected HOST:PORT, got 'nowhere'"),
    (("--target", "127.0.0.1:1", "--draft-model", "x"), "--target: expected no models with it"),
    (("--prompt", "word " * 600), "prompt: expected at most 511 tokens"),
])
def test_what_cannot_be_generated_is_one_clear_error(arguments: tuple[str, ...], text: str) -> None:
    done = glsnet("generate", *SHORT, *arguments, code=2)
    assert text in done.stderr and done.stdout == "" and "Traceback" not in done.stderr


def test_an_interrupted_generation_ends_quietly() -> None:
    with subprocess.Popen([GLSNET, "generate", "--prompt", PROMPT, "--max-tokens", "440"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate()
        assert process.returncode == 130 and "Traceback" not in log
