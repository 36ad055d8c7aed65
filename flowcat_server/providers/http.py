"""The process's shared HTTP client, and how its failures become provider errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)

CONNECT_TIMEOUT_S = 5.0


class Http:
    """One `aiohttp.ClientSession`, opened on first use inside the running loop.

    aiohttp's default connector stops at 100 connections and counts WebSockets, so the limit is
    lifted: admission limits calls, not the connector.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The shared session."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=120),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                # What one call's tools were given must not travel with another's.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def status_error(provider: str, status: int, text: str) -> ProviderError:
    """The error for an HTTP or handshake status of 400 and above.

    `text` is what the vendor said about it; it is shortened, and must not hold a key.
    """
    message = f"HTTP {status}: {text[:300]}" if text else f"HTTP {status}"
    if status == 429:
        return ProviderBusy(provider, message)
    if status in (408, 425) or status >= 500:
        return ProviderUnavailable(provider, message)
    return ProviderRefused(provider, message)


@contextmanager
def translate(provider: str) -> Iterator[None]:
    """Turn aiohttp's and the socket's errors into provider errors."""
    try:
        yield
    except aiohttp.WSServerHandshakeError as error:
        raise status_error(provider, error.status, error.message) from error
    except aiohttp.ClientResponseError as error:
        raise status_error(provider, error.status, error.message) from error
    except TimeoutError as error:
        raise ProviderTimeout(provider, "no answer in time") from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError) as error:
        raise ProviderUnavailable(provider, str(error) or type(error).__name__) from error
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ProviderProtocol(provider, f"unreadable answer: {type(error).__name__}") from error
