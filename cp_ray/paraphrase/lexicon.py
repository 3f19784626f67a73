"""Words that decide what a survey question asks: negations, opposites, quantities, duties. English."""

import re

__all__ = [
    "DUTY",
    "EMPTY",
    "NEGATABLE",
    "NEGATIONS",
    "NUMBERS",
    "PREFIXES",
    "QUANTITIES",
    "are_opposite",
]

NEGATIONS = frozenset(
    "not no never none nobody nothing nowhere neither nor cannot without hardly scarcely barely rarely seldom fail "
    "lack absence absent refuse refrain avoid escape spare little few".split()
)
"""Lemmas that turn a statement round; `rarely` and `few` do as `not often` and `not many`."""

NEGATABLE = frozenset(
    "important necessary acceptable likely able usual common fair just happy safe certain willing aware equal honest "
    "satisfied agree approve trust respect possible moral legal justified justifiable reasonable desirable popular "
    "patient reliable responsible favourable favorable comfortable interested concerned worried wise fit fortunate "
    "friendly healthy kind natural pleasant polite proven real sure true useful welcome correct accurate adequate "
    "capable complete direct efficient effective frequent significant sincere sufficient tolerant proper regular "
    "relevant appropriate employed believe like obey allow please honour honor".split()
)
"""Words that a prefix turns round."""

DUTY = frozenset(("should", "must", "ought", "shall"))
"""What ought to be, and not what is."""

DUTY_TOO = DUTY | frozenset(
    "duty obligation obliged obligate responsibility responsible supposed owe need require necessary deserve right ok "
    "entitle entitled fair justified best let essential up acceptable okay wrong".split()
)
"""Words that may say the same as those; so may `have to`."""

WISH = frozenset(("would", "could", "might"))
"""What would be, and not what is or was."""

UNITS = {
    word: unit
    for unit, words in {
        "hour": "hour hourly", "day": "day daily", "week": "week weekly", "month": "month monthly",
        "year": "year yearly annual annually", "decade": "decade", "century": "century", "generation": "generation",
    }.items()
    for word in words.split()
}  # fmt: skip
"""Spans of time, by lemma."""

EMPTY = frozenset(
    "be have do so too very just also even still rather quite really then there here ever far often how when "
    "where why own such much well please thing way lot case kind sort fact extent general overall together ago "
    "today nowadays now make go get take need keep put come give receive mean seem spend happen say think opinion "
    "view ask tell agree".split()
)
"""Words that may go or come without a change."""

QUANTITIES: dict[str, str] = {
    word: kind
    for kind, words in {
        "all": "all every each everyone everybody everything whole entire always entirely completely fully any "
        "whenever",
        "both": "both",
        "either": "either",
        "most": "most mostly majority usually normally largely mainly generally",
        "some": "some several certain someone somebody partly partially",
        "sometimes": "sometimes occasionally",
        "none": "none nobody never nothing",
        "only": "only solely exclusively sole",
        "half": "half",
        "many": "many numerous often frequently lot",
        "few": "few rarely seldom hardly scarcely",
    }.items()
    for word in words.split()
}
"""How many or how often, by lemma."""

NUMBERS: dict[str, str] = {
    word: str(number)
    for number, words in {
        0: "zero",
        2: "two twice second",
        3: "three third thrice triple",
        4: "four fourth quarter",
        5: "five fifth",
        6: "six sixth",
        7: "seven seventh",
        8: "eight eighth",
        9: "nine ninth",
        10: "ten tenth",
        12: "twelve dozen",
        20: "twenty",
        50: "fifty",
        100: "hundred",
        1000: "thousand",
        1000000: "million",
    }.items()
    for word in words.split()
}
"""Numbers in words; not one, which is more often an article."""

# On both sides of a bar stands what is the other side's opposite.
_OPPOSITES = """
accept embrace welcome | reject refuse decline oppose resist
add | remove subtract
admit | deny
advantage benefit pro upside good | disadvantage drawback con downside harm damage
agree concur | disagree dissent
allow permit let enable | forbid ban prohibit prevent stop bar deny
always | never
ancient old | modern new young
approve support favour favor back endorse | disapprove oppose condemn reject
arrive come enter immigrate | leave depart exit emigrate
attract | repel deter
before ahead earlier | after behind later
begin start open | end stop finish close
believe trust | doubt distrust mistrust disbelieve
best | worst
better | worse
big large great high huge | small little low tiny
bold brave | timid cowardly
bright | dim dark
build create make establish | destroy ruin wreck demolish
buy purchase | sell
calm peaceful | violent aggressive hostile
careful | careless reckless
certain sure definite | uncertain unsure doubtful
cheap affordable inexpensive | expensive costly dear
clean | dirty polluted corrupt
clever smart intelligent wise | stupid foolish dumb
common frequent widespread usual | rare uncommon unusual infrequent scarce
confident | insecure anxious
connect unite join | separate divide split
cooperate | compete
correct right true accurate | wrong false incorrect untrue inaccurate mistaken
decrease reduce lower fall drop decline shrink lessen diminish cut | increase raise rise grow expand boost
defend protect | attack endanger threaten
dependent | independent
different differently | same alike similar identical equal equally
difficult hard tough challenging | easy simple effortless
early | late
earn gain win get receive obtain acquire | lose forfeit
easier | harder
employ hire | dismiss fire
employed | unemployed jobless
encourage promote foster further motivate | discourage hinder hamper impede obstruct deter
enough sufficient adequate abundant | insufficient inadequate scarce lacking scant
equal | unequal
equality | inequality
everyone everybody all | nobody none
everything | nothing
fair just honest impartial | unfair unjust dishonest biased partial rigged
faith | doubt disbelief
famous | unknown
far distant | near close
fast quick rapid | slow
few fewer | many more numerous
find | lose
first | last
follow obey | break disobey violate
for favour favor support back | against oppose opposing opposition
forget | remember
forward | backward
free | forced captive
freedom liberty | slavery oppression captivity
friend ally | enemy foe
friendly kind | hostile unfriendly cruel
full | empty
generous | stingy greedy selfish
give | take
good positive excellent | bad poor negative terrible evil
guilty | innocent
happy glad content satisfied joyful pleased | unhappy sad miserable dissatisfied discontent upset
happiness | unhappiness misery sadness
hard-working diligent industrious | lazy idle
harmful damaging dangerous | harmless beneficial helpful safe
healthy | sick ill unhealthy
help assist aid support benefit | harm hurt hinder damage
here | there
hide conceal | reveal show disclose
honest truthful | dishonest lying deceitful
hope optimism | despair pessimism
improve enhance better | worsen deteriorate harm damage
include | exclude
inferior | superior
inside in within | outside out
interested | bored uninterested indifferent
keep maintain preserve | abandon discard
last | first
left | right
legal lawful | illegal unlawful
less fewer | more
lenient | strict harsh severe
like love enjoy | dislike hate
lead | follow
long | short
loud | quiet
major | minor
majority | minority
most | less least
married | single unmarried divorced
maximum | minimum
moral ethical | immoral unethical
much plenty lot loads | little bit few
national native citizen local | foreigner immigrant foreign migrant
natural | artificial
necessary essential needed required | unnecessary needless optional superfluous
obey | defy
often frequently regularly commonly | rarely seldom never infrequently
optimistic | pessimistic
parent | child
pass succeed | fail
passive | active
patient | impatient
peace | war conflict
permanent | temporary
pleasant | unpleasant
polite | rude
poor | rich wealthy
poverty | wealth riches
powerful strong | powerless weak
praise | blame criticise criticize
private | public
privilege | disadvantage
proud | ashamed embarrassed
pride | shame
public | private secret
push | pull
rational | irrational
real genuine | fake
religious devout | secular atheist irreligious
respect | contempt disrespect
respectful | disrespectful
reward | punish
rich wealthy | poor
rural | urban
safe secure | unsafe dangerous insecure
safety security | danger insecurity
save | waste spend
secular | religious
selfish | selfless altruistic
sharp | blunt
sick ill | healthy well
single | married
solve | cause
son boy man male husband father brother he | daughter girl woman female wife mother sister she
stable | unstable
stay remain | leave go
strengthen | weaken
strong | weak
succeed success | fail failure
superior better | inferior worse
support | oppose opposition
teach | learn
tolerant | intolerant
tradition traditional | innovation modern
trust | distrust mistrust suspicion
truth | lie falsehood
useful helpful | useless
victory win | defeat loss
village | city
visible | invisible hidden
voluntary | compulsory mandatory forced
weaker | stronger
win | lose
wise | foolish
with | without
worthy worthwhile | worthless
"""

PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "non-", "mis", "anti", "anti-")


def _read(text: str) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for line in text.strip().splitlines():
        left, right = (side.split() for side in line.split("|"))
        for one in left:
            found.setdefault(one, set()).update(right)
        for one in right:
            found.setdefault(one, set()).update(left)
    return {word: frozenset(opposites) for word, opposites in found.items()}


_OPPOSITE = _read(_OPPOSITES)
_LESS = re.compile(r"(.{3,})less(ly|ness)?$")


def are_opposite(one: str, other: str) -> bool:
    """Is one lemma the other's opposite, by sense or by its form (`fair` and `unfair`, `careful` and `careless`)?"""
    return other in _OPPOSITE.get(one, ()) or _by_form(one, other) or _by_form(other, one)


def _by_form(plain: str, other: str) -> bool:
    if len(plain) < 3:
        return False
    if any(other == prefix + plain for prefix in PREFIXES):
        return True
    found = _LESS.match(other)
    return found is not None and plain in (found[1], f"{found[1]}ful", f"{found[1]}fully")
