"""What both orders do to the world, and what they have done to it."""

effects: list[str] = []


def price(items: list[str]) -> int:
    effects.append(f"priced {len(items)}")
    return 10 * len(items)


def reserve(item: str) -> str:
    effects.append(f"reserved {item}")
    return f"{item} from shelf {len(item)}"


def charge(total: int, attempt: int) -> str:
    effects.append(f"charged {total}, attempt {attempt}")
    if attempt == 1:
        raise ConnectionError("the bank hung up")
    return f"receipt for {total}"


def ask_the_boss(callback_id: str) -> None:
    effects.append("asked the boss" if callback_id else "asked nobody")


def order_label(callback_id: str) -> None:
    effects.append("ordered a label" if callback_id else "ordered nothing")


def wrap(item: str) -> str:
    effects.append(f"wrapped {item}")
    return f"wrapped {item}"


def invoice(total: int) -> str:
    effects.append(f"wrote an invoice over {total}")
    return f"invoice over {total}"


def track(attempt: int) -> str:
    effects.append(f"looked for the parcel, attempt {attempt}")
    return "on its way" if attempt == 1 else "delivered"
