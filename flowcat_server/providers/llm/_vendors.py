"""Vendors and servers that speak OpenAI's chat completions, one row each.

Base URLs, key variables and quirks were checked against the vendors' documentation, their SDKs or
the tables of other open-source clients in November 2026. A vendor without a default model wants
``model`` in the agent file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from flowcat_server.providers.llm.openai import (
    AzureOptions,
    ChatOptions,
    Dialect,
    OpenAiModel,
    create_azure,
)
from flowcat_server.providers.registry import Provider

# Which models know "none" is not told by the family's name: gpt-6-astra and gpt-6.1-sol refuse it.
_OPENAI_NO_REASONING = re.compile(
    r"^gpt-(5\.[1245]|5\.4-(mini|nano)|5\.6(-(sol|terra|luna))?|6-(sol|luna)|6\.1-terra)"
    r"(-\d{4}-\d{2}-\d{2})?$"
)
_OPENAI = Dialect(max_tokens="max_completion_tokens", efforts=((_OPENAI_NO_REASONING, "none"),))
# gpt-oss cannot stop reasoning; "low" is the least.
_GPT_OSS = ((re.compile(r"gpt-oss"), "low"),)
_PLAIN = Dialect()

# https://developers.openai.com/api/docs/deprecations
_OPENAI_RETIRED = {
    **dict.fromkeys(
        ("gpt-4.1-nano", "o4-mini", "o3-mini", "o1", "gpt-4-turbo", "gpt-4", "gpt-3.5-turbo"),
        "2026-10-23",
    ),
    **dict.fromkeys(("gpt-5", "gpt-5-mini", "gpt-5-nano", "o3"), "2026-12-11"),
    **dict.fromkeys(("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"), "2027-01-14"),
    **dict.fromkeys(("gpt-5.1", "gpt-5.4-nano"), "2027-04-01"),
}


def _hosted(
    title: str,
    base_url: str,
    env: str | tuple[str, ...],
    model: str = "",
    dialect: Dialect = _PLAIN,
    retired: Mapping[str, str] | None = None,
) -> Provider:
    return Provider(
        create=partial(OpenAiModel, dialect=dialect),
        options=ChatOptions,
        env=(env,) if isinstance(env, str) else env,
        base_url=base_url,
        default_model=model,
        model_required=not model,
        title=title,
        retired=retired or {},
    )


def _own_server(title: str, base_url: str = "") -> Provider:
    """A server that the user runs: no key unless the agent file names one."""
    return Provider(
        create=partial(OpenAiModel, dialect=_PLAIN),
        options=ChatOptions,
        key_required=False,
        base_url=base_url,
        model_required=True,
        unmetered=True,
        title=title,
    )


VENDORS: dict[str, Provider] = {
    "openai": _hosted(
        "OpenAI",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        "gpt-6-luna",
        _OPENAI,
        _OPENAI_RETIRED,
    ),
    "azure": Provider(
        create=partial(
            create_azure,
            dialect=Dialect(
                max_tokens="max_completion_tokens", efforts=_OPENAI.efforts, key_header="api-key"
            ),
        ),
        options=AzureOptions,
        env=("AZURE_OPENAI_API_KEY",),
        model_required=True,
        title="Azure OpenAI (model: the deployment's name)",
    ),
    "groq": _hosted(
        "Groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        "openai/gpt-oss-120b",
        Dialect(max_tokens="max_completion_tokens", efforts=_GPT_OSS),
    ),
    "cerebras": _hosted(
        "Cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        "gpt-oss-120b",
        Dialect(max_tokens="max_completion_tokens", penalties=False, efforts=_GPT_OSS),
    ),
    "together": _hosted(
        "Together AI", "https://api.together.xyz/v1", "TOGETHER_API_KEY", "zai-org/GLM-5.1"
    ),
    "fireworks": _hosted(
        "Fireworks AI",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        dialect=Dialect(seed="", stream_options=False),
    ),
    "openrouter": _hosted("OpenRouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "deepseek": _hosted(
        "DeepSeek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek-v4-flash"
    ),
    "xai": _hosted("xAI", "https://api.x.ai/v1", "XAI_API_KEY", "grok-4.20-non-reasoning"),
    "mistral": _hosted(
        "Mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        "mistral-small-latest",
        # Its streams end with the usage unasked.
        Dialect(seed="random_seed", stream_options=False),
    ),
    "nvidia": _hosted(
        "NVIDIA NIM",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        "nvidia/nemotron-3-nano-30b-a3b",
    ),
    "qwen": _hosted(
        "Qwen (Alibaba Cloud)",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        "qwen-plus",
    ),
    "sambanova": _hosted(
        "SambaNova",
        "https://api.sambanova.ai/v1",
        "SAMBANOVA_API_KEY",
        "Meta-Llama-3.3-70B-Instruct",
        Dialect(penalties=False),
    ),
    "nebius": _hosted(
        "Nebius",
        "https://api.tokenfactory.nebius.com/v1",
        "NEBIUS_API_KEY",
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
    ),
    "novita": _hosted(
        "Novita AI", "https://api.novita.ai/openai", "NOVITA_API_KEY", "moonshotai/kimi-k2.5"
    ),
    "baseten": _hosted(
        "Baseten", "https://inference.baseten.co/v1", "BASETEN_API_KEY", "moonshotai/Kimi-K2.6"
    ),
    "crusoe": _hosted(
        "Crusoe", "https://api.inference.crusoecloud.com/v1", "CRUSOE_API_KEY", "zai/GLM-5.2"
    ),
    "inception": _hosted(
        "Inception", "https://api.inceptionlabs.ai/v1", "INCEPTION_API_KEY", "mercury-2"
    ),
    "perplexity": _hosted(
        "Perplexity (no tools: cannot move through a graph)",
        "https://api.perplexity.ai",
        "PERPLEXITY_API_KEY",
        "sonar",
        Dialect(tools=False, strict_roles=True, stream_options=False),
    ),
    "moonshot": _hosted("Moonshot AI", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "zai": _hosted("Z.ai", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
    "minimax": _hosted("MiniMax", "https://api.minimax.io/v1", "MINIMAX_API_KEY"),
    "deepinfra": _hosted("DeepInfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "huggingface": _hosted(
        "Hugging Face inference providers",
        "https://router.huggingface.co/v1",
        ("HF_TOKEN", "HUGGINGFACE_API_KEY"),
    ),
    "sarvam": _hosted(
        "Sarvam AI",
        "https://api.sarvam.ai/v1",
        "SARVAM_API_KEY",
        "sarvam-105b",
        Dialect(key_header="api-subscription-key", stream_options=False),
    ),
    # https://ai.google.dev/gemini-api/docs/openai
    "gemini": _hosted(
        "Google Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        "gemini-3.8-flash",
        Dialect(seed="", penalties=False),
    ),
    "openai-compatible": _own_server("Any server that speaks OpenAI's chat completions"),
    "ollama": _own_server("Ollama", "http://localhost:11434/v1"),
    # Tools need the server's --enable-auto-tool-choice and --tool-call-parser.
    "vllm": _own_server("vLLM", "http://localhost:8000/v1"),
    # Tools need the server's --jinja.
    "llama-server": _own_server("The llama.cpp server", "http://localhost:8080/v1"),
    "lm-studio": _own_server("LM Studio", "http://localhost:1234/v1"),
}
