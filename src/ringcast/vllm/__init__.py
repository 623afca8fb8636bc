"""ringcast inside vLLM: its queue between scheduler and workers, put in the place of vLLM's own. Nothing of vLLM is
changed on disk.

vLLM finds `register` as a plugin (entry point `vllm.general_plugins`) and calls it in each of its processes. It does
nothing unless it is switched on, by `VLLM_PLUGINS=ringcast` or `RINGCAST_VLLM=1`; and on any doubt it leaves vLLM's own
queue in place, and says why. docs/vllm.md is the guide.

    _switch    what the environment says: whether, and how
    _fit       does this vLLM call what we offer?
    _places    where vLLM's class is, and putting ours there
    _queue     the queue, with vLLM's signatures
    _pieces    messages for which shared memory has no room at once

`connector` is another way in: vLLM's KV connector over a ringcast pool, named by its configuration (docs/vllm-pool.md).

    connector       vLLM's names and types
    _messages       what travels inside vLLM
    _served         what of an engine is served, and what makes its chunks its own
    _pages          what a page of its tensors is
    _pool_settings  what its configuration says
    _pool_access    a way to the pool that may come late
    _scheduling     the scheduler's side: what requests can have
    _storing        its stores, and the thread that asks the server for them
    _copying        a worker's side: copies in threads
    _plans          what the sides tell each other
    _pool_events    which blocks are in the pool, told to routers
    _counts         what has been done
"""

from __future__ import annotations

import logging

from ringcast.vllm import _switch

__all__ = ["register"]

_log = logging.getLogger("vllm.ringcast")


def register() -> bool:
    """Put ringcast's queue in the place of vLLM's, if that is switched on; True if it is there now.

    Called by vLLM, in each process; any number of times. It raises nothing: what stands in the way is logged, and vLLM
    goes on with its own queue.

    >>> register()
    False
    """
    try:
        if not _switch.is_on():
            return False
        from ringcast.vllm import _places
        from ringcast.vllm._queue import MessageQueue

        _switch.wait(), _switch.time_slice()  # which raise if they make no sense
        if not _places.put_in_place(MessageQueue):
            return False
        _switch.log_as_vllm_does()
        return True
    except Exception:  # vLLM would not start
        _log.exception("ringcast: not in use here, vLLM's own queue stays in place")
        return False
