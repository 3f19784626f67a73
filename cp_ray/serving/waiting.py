"""Who waits, and whose turn it is: tenants share what there is, whatever each of them asks for."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["Waiting"]


class Waits(Protocol):
    """A request that waits."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def cost(self) -> int:
        """Tokens that it takes."""
        ...


R = TypeVar("R", bound=Waits)


class Waiting(Generic[R]):
    """Start-time fair queueing: the tenant that has been given the fewest tokens is next, its oldest request first.

    One that comes back after a while begins where the others are, so that nobody saves up.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[R]] = OrderedDict()
        self._given: dict[str, int] = {}
        self._now = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def push(self, request: R) -> None:
        """A request comes."""
        if request.tenant not in self._queues:
            self._queues[request.tenant] = deque()
            self._given[request.tenant] = max(self._now, self._given.get(request.tenant, 0))
        self._queues[request.tenant].append(request)

    def count(self) -> Counter[str]:
        """Requests of each tenant."""
        return Counter({tenant: len(queue) for tenant, queue in self._queues.items()})

    def __iter__(self) -> Iterator[R]:
        return (request for queue in self._queues.values() for request in queue)

    def peek(self, goes: Callable[[R], bool]) -> R | None:
        """Whose turn it is; `goes`: whether a request may leave now."""
        tenant = self._next(goes)
        return None if tenant is None else self._queues[tenant][0]

    def pop(self, goes: Callable[[R], bool]) -> R:
        """That one leaves, its tokens being counted.

        Raises:
            LookupError: nobody may leave.
        """
        tenant = self._next(goes)
        if tenant is None:
            raise LookupError("nobody may leave")
        request = self._queues[tenant].popleft()
        self._now = max(self._now, self._given[tenant])
        self._given[tenant] += request.cost
        self._clean()
        return request

    def remove(self, request: R) -> bool:
        """A request leaves without being answered; False if it did not wait."""
        queue = self._queues.get(request.tenant)
        if queue is None or request not in queue:
            return False
        queue.remove(request)
        self._clean()
        return True

    def drain(self) -> list[R]:
        """All leave."""
        left = list(self)
        self._queues.clear()
        self._given.clear()
        return left

    def _next(self, goes: Callable[[R], bool]) -> str | None:
        among = (tenant for tenant, queue in self._queues.items() if goes(queue[0]))
        return min(among, key=lambda tenant: self._given[tenant], default=None)

    def _clean(self) -> None:
        for tenant in [t for t, queue in self._queues.items() if not queue]:
            del self._queues[tenant]
        # Who has nothing waiting and no more than the others is as good as new; so are all when nobody waits.
        self._given = {t: n for t, n in self._given.items() if self._queues and (t in self._queues or n > self._now)}
