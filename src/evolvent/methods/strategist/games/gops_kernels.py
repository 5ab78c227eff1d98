"""GOPS compiled: the rules, features and random playouts of `gops`, on states of two 64-bit words.

A state is the encoded int16 row seen as two int64: hand0 | hand1 | deck | prize and carry | score0 | score1 | phase,
16 bits each, lowest first. Card c is bit c - 1 of a mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evolvent.methods.strategist.games.compiled import kernel
from evolvent.methods.strategist.games.rng_kernels import below

FEATURES = 12
DRAW, BID, OVER = 0, 1, 2
LOW = 0xFFFF


@kernel
def pack(hand0: Any, hand1: Any, deck: Any, prize: Any, carry: Any, score0: Any, score1: Any) -> Any:
    """The two words of a state; the phase follows from the rest."""
    phase = BID if prize > 0 else DRAW if deck != 0 else OVER
    first = hand0 | hand1 << 16 | deck << 32 | prize << 48
    return first, carry | score0 << 16 | score1 << 32 | phase << 48


@kernel
def nth_bit(mask: Any, index: Any) -> Any:
    """The bit of the card at a position, ascending."""
    for _ in range(index):
        mask &= mask - 1
    return mask & -mask


@kernel
def card(bit: Any) -> Any:
    """The card of a bit."""
    number = 0
    if bit >= 256:
        bit >>= 8
        number = 8
    if bit >= 16:
        bit >>= 4
        number += 4
    if bit >= 4:
        bit >>= 2
        number += 2
    return number + bit


@kernel
def count(mask: Any) -> Any:
    """Cards in a mask."""
    found = 0
    while mask:
        mask &= mask - 1
        found += 1
    return found


@kernel
def draw_prize(first: Any, second: Any, index: Any) -> Any:
    """The words after the prize at position `index` of the deck is drawn."""
    deck = (first >> 32) & LOW
    bit = nth_bit(deck, index)
    kept = first & ~(LOW << 32) & ~(LOW << 48)
    return kept | (deck ^ bit) << 32 | card(bit) << 48, (second & ~(LOW << 48)) | BID << 48


@kernel
def settle(first: Any, second: Any, bid0: Any, bid1: Any, carries: Any) -> Any:
    """The words after two bids, given as bits."""
    hand0, hand1 = (first & LOW) ^ bid0, ((first >> 16) & LOW) ^ bid1
    deck, prize = (first >> 32) & LOW, first >> 48
    carry, score0, score1 = second & LOW, (second >> 16) & LOW, (second >> 32) & LOW
    pot = prize + carry
    carry = 0
    if bid0 > bid1:
        score0 += pot
    elif bid1 > bid0:
        score1 += pot
    elif carries:
        carry = pot
    return pack(hand0, hand1, deck, 0, carry, score0, score1)


@kernel
def margin(second: Any, win_loss: Any) -> Any:
    """Return of player 0 at the end."""
    difference = ((second >> 16) & LOW) - ((second >> 32) & LOW)
    if win_loss:
        return np.float64((difference > 0) - (difference < 0))
    return np.float64(difference)


@kernel
def _nibbles(mask: Any) -> Any:
    """Cards of a mask as a list of 4-bit numbers (card - 1), so that taking the j-th one takes no loop."""
    packed = np.uint64(0)
    shift = np.uint64(0)
    while mask:
        bit = mask & -mask
        packed |= np.uint64(card(bit) - 1) << shift
        shift += np.uint64(4)
        mask ^= bit
    return packed


@kernel
def _take(packed: Any, index: Any) -> Any:
    shift = np.uint64(4) * np.uint64(index)
    below_it = packed & ((np.uint64(1) << shift) - np.uint64(1))
    rest = (packed >> shift) >> np.uint64(4)
    return np.int64((packed >> shift) & np.uint64(15)) + 1, below_it | rest << shift


@kernel
def playout(first: Any, second: Any, carries: Any, win_loss: Any, stream: Any) -> Any:
    """Return of player 0 when both bid at random from here to the end."""
    hand0, hand1 = _nibbles(first & LOW), _nibbles((first >> 16) & LOW)
    deck = _nibbles((first >> 32) & LOW)
    prize, carry = first >> 48, second & LOW
    lead = ((second >> 16) & LOW) - ((second >> 32) & LOW)
    left = count((first >> 32) & LOW)
    cards = count(first & LOW)
    while cards > 0:
        if prize == 0:
            prize, deck = _take(deck, below(stream, left))
            left -= 1
        bid0, hand0 = _take(hand0, below(stream, cards))
        bid1, hand1 = _take(hand1, below(stream, cards))
        cards -= 1
        pot = prize + carry
        prize = 0
        carry = 0
        if bid0 > bid1:
            lead += pot
        elif bid1 > bid0:
            lead -= pot
        elif carries:
            carry = pot
    if win_loss:
        return np.float64((lead > 0) - (lead < 0))
    return np.float64(lead)


@kernel
def _sign(x: Any) -> Any:
    return (x > 0) - (x < 0)


@kernel
def fill_features(first: Any, second: Any, num_cards: Any, out: Any) -> Any:
    """Write the 12 features of a state into a float32 row, and return the rounds left."""
    hand0, hand1, deck, prize = first & LOW, (first >> 16) & LOW, (first >> 32) & LOW, first >> 48
    carry, lead = second & LOW, ((second >> 16) & LOW) - ((second >> 32) & LOW)
    prizes = deck | (1 << (prize - 1) if prize > 0 else 0)
    sum0, sum1, top0, top1, high, wins, cards, remaining = 0, 0, 0, 0, 0, 0, 0, carry
    seen0, seen1 = 0, 0
    for c in range(1, num_cards + 1):
        bit = 1 << (c - 1)
        in0, in1 = (hand0 & bit) != 0, (hand1 & bit) != 0
        if in0:
            sum0 += c
            top0 = c
            wins += seen1
            cards += 1
        if in1:
            sum1 += c
            top1 = c
            wins -= seen0
        seen0 += in0
        seen1 += in1
        if 2 * c > num_cards:
            high += in0
            high -= in1
        if prizes & bit:
            remaining += c
    matched = 0
    left0, left1, left = hand0, hand1, prizes
    while left and left0:
        bit, bit0, bit1 = left & -left, left0 & -left0, left1 & -left1
        if bit0 > bit1:
            matched += card(bit)
        elif bit1 > bit0:
            matched -= card(bit)
        left ^= bit
        left0 ^= bit0
        left1 ^= bit1
    share, dominance = 0.0, 0.0
    if cards > 0:
        share = (sum0 - sum1) / (sum0 + sum1)
        dominance = wins / (cards * cards)
    pot = prize + carry
    out[0] = lead
    out[1] = sum0 - sum1
    out[2] = remaining * share
    out[3] = top0 - top1
    out[4] = pot * _sign(top0 - top1)
    out[5] = remaining * dominance
    out[6] = pot * dominance
    out[7] = high
    out[8] = matched
    out[9] = carry * _sign(sum0 - sum1)
    out[10] = lead * cards
    out[11] = lead if abs(lead) > remaining else 0
    return cards


@kernel
def features(encoded: Any, num_cards: Any) -> Any:
    """Features of encoded states, (states, 12) float32."""
    words = encoded.view(np.int64)
    out = np.zeros((len(encoded), FEATURES), np.float32)
    for i in range(len(encoded)):
        fill_features(words[i, 0], words[i, 1], num_cards, out[i])
    return out


@kernel
def draw_all(words: Any, index: Any) -> Any:
    """Draw the prize at position index[i] in state i, in place."""
    for i in range(len(words)):
        words[i, 0], words[i, 1] = draw_prize(words[i, 0], words[i, 1], index[i])
    return 0


@kernel
def settle_all(words: Any, ranks: Any, carries: Any) -> Any:
    """Bid the cards at positions ranks[i, player] of the hands in state i, in place; returns the cards."""
    cards = np.zeros((len(words), 2), np.int64)
    for i in range(len(words)):
        bid0, bid1 = nth_bit(words[i, 0] & LOW, ranks[i, 0]), nth_bit((words[i, 0] >> 16) & LOW, ranks[i, 1])
        cards[i, 0], cards[i, 1] = card(bid0), card(bid1)
        words[i, 0], words[i, 1] = settle(words[i, 0], words[i, 1], bid0, bid1, carries)
    return cards


@kernel
def random_games(games: Any, num_cards: Any, carries: Any, win_loss: Any, stream: Any) -> Any:
    """Returns of player 0 in games played at random, drawn from one stream."""
    full = (1 << num_cards) - 1
    first, second = pack(full, full, full, 0, 0, 0, 0)
    out = np.zeros(games)
    for game in range(games):
        out[game] = playout(first, second, carries, win_loss, stream)
    return out
