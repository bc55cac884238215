"""The embedded domain: a generated toy shop with planted structure, no download.

The catalogue is made of series: parts numbered 1 … n of one brand and product line, with a
complement (a refill, a paint set, …) that follows one of the parts. A series' *route* is the order
in which it is bought, some items left out; a finished route leads to that of a fixed other series
of the brand. Users have tastes, a mixture over categories. Each follows a route from somewhere on
it, turns to another brand now and then, and at times goes back to the route before. A few purchases
are gifts, by taste and popularity. Nobody buys a thing twice.

So the next item is mostly read off the last few, which popularity cannot do. Co-occurrence sees
which items go together but not in which order: what a user left out looks as good to it as what
comes next.
"""

import dataclasses

import numpy as np
import pandas as pd
import psutil

from recalign.domains.raw import RawDomain
from recalign.errors import UserError

CATEGORIES = {
    "Puzzles": ("Puzzle", "Jigsaw", "Brain Teaser"),
    "Model Kits": ("Model Plane", "Model Ship", "Model Car"),
    "Building Blocks": ("Castle Blocks", "City Blocks", "Space Blocks"),
    "Board Games": ("Board Game", "Card Game", "Strategy Game"),
    "Art Supplies": ("Crayon Set", "Watercolor Set", "Sticker Book"),
    "Trains": ("Train Set", "Rail Wagon", "Track Pack"),
    "Science Kits": ("Chemistry Kit", "Crystal Kit", "Robot Kit"),
    "Plush": ("Plush Bear", "Plush Fox", "Plush Whale"),
}
COMPLEMENTS = {
    "Puzzles": "Glue and Frame",
    "Model Kits": "Paint Set",
    "Building Blocks": "Storage Box",
    "Board Games": "Expansion Dice",
    "Art Supplies": "Refill Pack",
    "Trains": "Signal Lights",
    "Science Kits": "Refill Pack",
    "Plush": "Outfit",
}
BRANDS = (
    "Oakwind", "Bluefern", "Tinkerly", "Marlowe", "Pepperkin", "Sunhollow", "Copperfox", "Nimbo",
    "Larkspur", "Wobblewood", "Brightmoor", "Kestrel",
)  # fmt: skip
THEMES = (
    "Dragon", "Harbor", "Jungle", "Galaxy", "Winter", "Pirate", "Meadow", "Desert", "Volcano",
    "Circus", "Lagoon", "Castle", "Thunder", "Moonlight", "Safari", "Canyon", "Orchard", "Comet",
)  # fmt: skip

MIN_LENGTH, MAX_LENGTH = 5, 20
PARTS = (7, 11)  # least and most parts of a series

GIFT = 0.02  # a single purchase from another brand, by taste and popularity
TURN = 0.12  # turns to a series of another brand
RETURN = 0.03  # goes back to the series before
SKIP = 0.42  # leaves out the next item of the route, and then perhaps the one after it
MAX_SKIP = 3
FROM_START = 0.2  # enters a route at its beginning rather than anywhere
FAMILIAR = 0.001  # how much a brand that the user knows draws a turn
TASTES = 0.35  # Dirichlet concentration over categories: small means narrow tastes
SKEW = 0.4  # a series' popularity is 1 / rank ** SKEW

USER_BYTES = 2000  # of memory, for a user's purchases; 1,600 to 1,900 were measured

# In a small shop a user comes to know every brand; the weights must not vanish.
_LEAST_WEIGHT = 1e-9
_FIRST_PURCHASE = 1_577_836_800  # 2020-01-01
_TWO_YEARS = 2 * 365 * 86_400


@dataclasses.dataclass(frozen=True)
class Shop:
    """The generated catalogue.

    Attributes:
      items: columns `key`, `title`, `brand`, `categories`, `series`.
      routes: for each series, int[…] rows of `items` in the order in which they are bought.
      categories: int[num_series], the category of each series.
      brands: str[num_series], the brand of each series.
      popularity: float[num_series].
      successors: int[num_series], the series that follows each.
    """

    items: pd.DataFrame
    routes: list[np.ndarray]
    categories: np.ndarray
    brands: np.ndarray
    popularity: np.ndarray
    successors: np.ndarray


def generate(users: int = 2000, items: int = 300, seed: int = 0) -> RawDomain:
    """Generates the shop and its users' purchases.

    Args:
      users: how many, at least 1; each buys 5 to 20 items.
      items: the size of the catalogue, at least 30.
      seed: the same gives the same domain.

    Raises:
      UserError: too few users or items, more items than there are names for, or more users than
        fit into memory.
    """
    most = len(BRANDS) * len(THEMES) * sum(map(len, CATEGORIES.values())) * PARTS[0]
    if users < 1 or not 30 <= items <= most:
        raise UserError(
            f"a toyshop needs 1 user or more and 30 to {most} items, not {users} and {items}"
        )
    free = psutil.virtual_memory().available
    if users > free // USER_BYTES:
        raise UserError(
            f"so many users do not fit into memory, of which {free / 2**30:.1f} GiB are free: it "
            f"fits {free // USER_BYTES} users, of about {USER_BYTES} bytes each"
        )
    rng = np.random.default_rng(seed)
    shop = _stock(items, rng)
    width = len(str(users))
    names, bought, times = [], [], []
    for user in range(users):
        history = _purchases(shop, rng)
        names += [f"user-{user + 1:0{width}d}"] * len(history)
        bought += history
        times.append(_times(len(history), rng))
    interactions = pd.DataFrame(
        {
            "user": names,
            "item": shop.items["key"].to_numpy(object)[bought],
            "timestamp": pd.array(np.concatenate(times), "Int64"),
        }
    )
    columns = {"user": "user", "item": "item", "timestamp": "timestamp"}
    return RawDomain(interactions, shop.items, columns={"interactions": columns})


def _stock(items: int, rng: np.random.Generator) -> Shop:
    sizes = _series_sizes(items, rng)
    categories = list(CATEGORIES)
    rows, routes, series_categories, brands = [], [], [], []
    names = _series_names(len(sizes), rng)
    for size, (category, brand, theme, noun) in zip(sizes, names, strict=True):
        first = len(rows)
        line = f"{brand} {theme} {noun}"
        titles = [f"{line} {part}" for part in range(1, size)]
        titles.append(f"{line} {COMPLEMENTS[category]}")
        rows += [(title, brand, category, line) for title in titles]
        route = np.arange(first, first + size - 1)
        # The complement is bought after a part of its series, not at the end of it.
        at = int(rng.integers(1, size - 1)) if size > 2 else size - 1
        routes.append(np.insert(route, at, first + size - 1))
        series_categories.append(categories.index(category))
        brands.append(brand)
    table = pd.DataFrame(rows, columns=["title", "brand", "categories", "series"])
    width = len(str(items))
    table.insert(0, "key", [f"toy-{row + 1:0{width}d}" for row in range(items)])
    ranks = rng.permutation(len(sizes)) + 1
    return Shop(
        items=table,
        routes=routes,
        categories=np.array(series_categories),
        brands=np.array(brands),
        popularity=ranks**-SKEW,
        successors=_successors(brands, rng),
    )


def _series_sizes(items: int, rng: np.random.Generator) -> list[int]:
    """Sizes of the series, complement included, that add up to `items`."""
    sizes = []
    while (left := items - sum(sizes)) > PARTS[1] + 1 + PARTS[0]:
        sizes.append(int(rng.integers(PARTS[0], PARTS[1] + 1)) + 1)
    if left > PARTS[1] + 1:
        sizes += [left // 2, left - left // 2]
    else:
        sizes.append(left)
    return sizes


def _series_names(count: int, rng: np.random.Generator) -> list[tuple[str, str, str, str]]:
    """Distinct (category, brand, theme, noun), categories and brands evenly filled.

    Three series a brand, as far as the brands go: few, large brands have routes to follow.
    """
    nouns = [(category, noun) for category, names in CATEGORIES.items() for noun in names]
    nouns = [nouns[i] for i in rng.permutation(len(nouns))]
    brands = [BRANDS[i] for i in rng.permutation(len(BRANDS))[: max(count // 3, 1)]]
    taken: dict[tuple[str, str], np.ndarray] = {}
    names = []
    for index in range(count):
        brand = brands[index % len(brands)]
        category, noun = nouns[(index + index // len(nouns)) % len(nouns)]
        themes = taken.setdefault((brand, noun), rng.permutation(len(THEMES)))
        taken[brand, noun] = themes[1:]
        names.append((category, brand, THEMES[themes[0]], noun))
    return names


def _successors(brands: list[str], rng: np.random.Generator) -> np.ndarray:
    """A cycle through the series of each brand."""
    successors = np.empty(len(brands), int)
    for brand in sorted(set(brands)):
        cycle = rng.permutation([i for i, other in enumerate(brands) if other == brand])
        successors[cycle] = np.roll(cycle, -1)
    return successors


def _purchases(shop: Shop, rng: np.random.Generator) -> list[int]:
    """One user's purchases: rows of `shop.items`, none twice."""
    length = min(MIN_LENGTH + int(rng.geometric(1 / 6)) - 1, MAX_LENGTH, len(shop.items))
    tastes = rng.dirichlet(np.full(len(CATEGORIES), TASTES))
    weights = (tastes[shop.categories] + 0.01) * shop.popularity
    # Series and position on its route: the current one and the one before.
    current, before = _turn(shop, weights, rng), _turn(shop, weights, rng)
    history: dict[int, None] = {}
    while len(history) < length:
        chance = rng.random()
        if chance < GIFT:
            series, position = _turn(shop, weights, rng)
            history[int(shop.routes[series][position])] = None
            continue
        if chance < GIFT + TURN:
            current, before = _turn(shop, weights, rng), current
        elif chance < GIFT + TURN + RETURN:
            current, before = before, current
        item, current = _advance(shop, current, rng)
        if item in history:  # a cycle of series came round
            current = _turn(shop, weights, rng)
        else:
            history[item] = None
    return list(history)


def _turn(shop: Shop, weights: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A series by taste and popularity, and where its route is entered.

    Lowers the weight of the whole brand in place, so that the next turn leads elsewhere.
    """
    series = int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right"))
    known = shop.brands == shop.brands[series]
    weights[known] = np.maximum(weights[known] * FAMILIAR, _LEAST_WEIGHT)
    at_start = rng.random() < FROM_START
    return series, 0 if at_start else int(rng.integers(len(shop.routes[series])))


def _advance(
    shop: Shop, place: tuple[int, int], rng: np.random.Generator
) -> tuple[int, tuple[int, int]]:
    """The next item of a route, a few left out at times, and the place after it."""
    series, position = place
    position += min(int(rng.geometric(1 - SKIP)) - 1, MAX_SKIP)
    while position >= len(shop.routes[series]):
        position -= len(shop.routes[series])
        series = int(shop.successors[series])
    return int(shop.routes[series][position]), (series, position + 1)


def _times(length: int, rng: np.random.Generator) -> np.ndarray:
    """int64[length], strictly increasing seconds since 1970; days between purchases."""
    start = _FIRST_PURCHASE + int(rng.integers(_TWO_YEARS))
    return start + np.cumsum(rng.geometric(1 / (9 * 86_400), length))
