"""The model of Inspect: a bridge under an edit, asked in batches."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    set_model_info,
)

from lofit_lens.analysis.suites.inspect_request import (
    BATCH_SIZE,
    MAX_TOKENS,
    Request,
    check_settings,
    text_of,
)
from lofit_lens.chat import ChatTemplate
from lofit_lens.edits.files import hash_of, load_edit
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.fast.in_force import edited
from lofit_lens.model import load_model
from lofit_lens.scoring.generation import generations
from lofit_lens.scoring.sampling import Sampling
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from inspect_ai.tool import ToolChoice, ToolInfo
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit
    from lofit_lens.loading.quantized import Quantization
    from lofit_lens.model import DtypeName

_TURNS: WeakKeyDictionary[Any, anyio.Lock] = WeakKeyDictionary()
"""Who asks a bridge: Inspect runs several models at once, and two edits of one must not meet."""

PAUSE = 0.1
"""Seconds that a request waits for others to share its batch."""


class EditedAPI(ModelAPI):
    """A bridge under an edit, as Inspect asks models.

    Messages stand in the chat template of the model's tokenizer; without one, a single user's turn
    is the prompt as it is. Tokens are the likeliest ones unless a temperature is given; then what is
    drawn depends on the seed, the prompt and how often that was asked before, not on the batch.

    Args:
        model_name: A folder or name, as `load_model` takes it.
        base_url: None; there is none.
        api_key: Not needed.
        config: Inspect's settings, as far as they are known.
        edit: The edit, or the folder of a saved one; None asks the model as it is.
        device: Where to put the model, as the following of `load_model`.
        dtype: Weights' type.
        quantization: Weights in 4 or 8 bits.
        revision: Branch, tag or commit on the hub.
        loaded: A bridge in eval mode, which is taken in place of loading `model_name`.

    Raises:
        LofitLensError: The model cannot be loaded, the edit does not fit, the tokenizer or its
            template cannot be used, or a setting is not supported.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        edit: str | Edit | None = None,
        device: str | None = None,
        dtype: DtypeName | None = None,
        quantization: Quantization | None = None,
        revision: str | None = None,
        loaded: TransformerBridge | None = None,
    ) -> None:
        check_settings(config or GenerateConfig())
        self._edit = load_edit(edit) if isinstance(edit, str) else edit
        if base_url is not None:
            raise LofitLensError(f"A model that runs here has no base URL, got {base_url!r}.")
        which = None if self._edit is None else hash_of(self._edit)  # Inspect's cache tells by it
        super().__init__(model_name, which, api_key, config=config or GenerateConfig())
        self._model = loaded or load_model(
            model_name, device=device, dtype=dtype, quantization=quantization, revision=revision
        )
        # without it Inspect makes a second model to ask for its context
        info = ModelInfo(context_length=self._model.cfg.n_ctx)
        set_model_info(f"lofit-lens/{model_name}", info)
        with edited(self._model, self._edit):
            self._encoder = Encoder(self._model)
        tokenizer: Any = self._model.tokenizer
        self._template = ChatTemplate.of(tokenizer) if tokenizer.chat_template else None
        self._waiting: list[Request] = []
        self._turn = _TURNS.setdefault(self._model, anyio.Lock())
        self._asked: Counter[str] = Counter()
        self._own_seed = secrets.randbits(32)

    def max_tokens(self) -> int:
        """Tokens of an answer where nothing is said."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Prompts of a batch where nothing is said."""
        return BATCH_SIZE

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002
        config: GenerateConfig,
    ) -> ModelOutput:
        """The answer to a conversation.

        Raises:
            LofitLensError: There are tools, images or settings that are not supported, the template
                refuses the conversation, or it exceeds the context.
        """
        if tools:
            raise UnsupportedError("Tools are not supported: leave those of the task out.")
        request = self._request(self._prompt(input), config)
        self._waiting.append(request)
        try:
            await anyio.sleep(PAUSE)
            async with self._turn:
                if request.found is None:
                    batch = self._batch(request, config.max_connections or BATCH_SIZE)
                    await anyio.to_thread.run_sync(self._answer, batch)
        finally:
            self._waiting.remove(request)
        return self._output(request, config)

    def _prompt(self, messages: list[ChatMessage]) -> str:
        turns = [(message.role, text_of(message)) for message in messages]
        if self._template is not None:
            return self._template.prompt(turns)
        if [role for role, _ in turns] != ["user"]:
            roles = ", ".join(role for role, _ in turns)
            raise UnsupportedError(
                f"The model has no chat template, so it can be asked in one turn of a user alone, got "
                f"{roles}. Write the prompts of the task in one turn, or load a model that was tuned to "
                "chat."
            )
        return turns[0][1]

    def _request(self, prompt: str, config: GenerateConfig) -> Request:
        check_settings(config)
        n_prompt = len(self._encoder.prompt(prompt).ids)
        room = self._model.cfg.n_ctx - n_prompt + 1  # the last token goes through no more
        self._asked[prompt] += 1
        seed = self._own_seed if config.seed is None else config.seed
        text = f"{seed} {self._asked[prompt]} {prompt}"
        return Request(
            prompt,
            min(config.max_tokens or MAX_TOKENS, room),
            tuple(config.stop_seqs or ()),
            (config.temperature, config.top_k, config.top_p) if config.temperature else None,
            int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]),
        )

    def _batch(self, first: Request, size: int) -> list[Request]:
        others = (one for one in self._waiting if one is not first and one.found is None)
        return [first, *(one for one in others if one.alike == first.alike)][:size]

    def _answer(self, batch: list[Request]) -> None:
        first, sampling = batch[0], None
        if first.drawn is not None:
            sampling = Sampling([request.seed for request in batch], *first.drawn)
        found = generations(
            self._model,
            [request.prompt for request in batch],
            self._edit,
            max_new_tokens=first.n_new,
            stop=first.stop,
            sampling=sampling,
            batch_size="auto",
            progress=False,
        )
        for request, answer in zip(batch, found, strict=True):
            request.found = answer

    def _output(self, request: Request, config: GenerateConfig) -> ModelOutput:
        found = request.found
        assert found is not None
        cut = "max_tokens" if request.n_new == (config.max_tokens or MAX_TOKENS) else "model_length"
        output = ModelOutput.from_content(
            self.model_name, found.text, "stop" if found.ended else cut
        )
        output.usage = ModelUsage(
            input_tokens=found.n_prompt,
            output_tokens=found.n_new,
            total_tokens=found.n_prompt + found.n_new,
        )
        return output
