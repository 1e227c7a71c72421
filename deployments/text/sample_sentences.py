"""The texts of the benchmarks and the round-trip tests: 19 different sentences, and one long text."""

from __future__ import annotations

from collections.abc import Iterator

SENTENCES: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "Could you please tell me where the nearest train station is?",
    "What a beautiful morning it is!",
    "She sells sea shells by the sea shore, and the shells she sells are surely from the sea.",
    "The meeting was moved from 7:30 a.m. to 2:15 p.m. because the manager missed her flight.",
    "On March 4th, 2024, the old museum opened its doors to the public again.",
    "A large coffee and two sandwiches cost $9.99, but the soup is free on Fridays.",
    "Dr. Smith and Mrs. Brown have worked in the same hospital for twenty-seven years.",
    "About 45% of the 1,250 people who answered said that they walk to work.",
    "Please turn left at the second traffic light, drive for three miles, and park behind the library.",
    "Why didn't anyone tell me that the shop closes at six on Sundays?",
    "William and Elizabeth flew from Chicago to Tokyo, and then took a night bus to the mountains.",
    "Stop! You can't leave your bicycle in front of the fire exit.",
    "In 1969, two men walked on the Moon while millions of people watched at home.",
    "The water boils at 100 degrees, but it should be about 82.5 degrees for green tea.",
    "Your order number is 4 7 1 9, and it will arrive between the 21st and the 23rd of October.",
    "We bought apples, pears, onions, etc. at the market, and we still had $20 left.",
    "Although the storm had passed, the sailors, who had not slept for two days, refused to leave the harbor until the"
    + " captain, tired and pale, promised them that they would sail only in daylight.",
    'He whispered, "I don\'t believe you," closed the book, and walked slowly out of the room.',
)

LONG_TEXT = """\
The letter came on a Tuesday, at 7:45 in the morning, while Martha was still looking for her other shoe. It was a thin \
blue envelope without a stamp, and somebody had pushed it under the kitchen door. She put it on the table next to the \
butter and looked at it for a while, as if it might explain itself.

"Are you going to open it?" asked her brother Daniel, who never waited for anything.

"After breakfast," she said. "Good news can wait, and bad news should."

Daniel did not agree. He was thirty-four years old, he had a good job at the bank, and he had not learned to leave \
other people's letters alone. When Martha turned around to get the milk, he held the envelope up to the window.

"It's from Dr. Wilson," he said. "I know his terrible handwriting. Do you owe him money?"

"Of course not. Give me that!"

She opened it with a butter knife. Inside there was a single sheet of paper and an old key, brown with rust and about \
as long as her thumb. The letter was short. Dr. Wilson wrote that he had kept the key for their grandmother since \
1987, that she had asked him to wait until the house on Mill Road was sold, and that the house had been sold last \
week. He did not know what the key would open. He only knew that it was for Martha, and that she should not come \
alone.

"Well," said Daniel, "that is not the usual kind of letter. What are we waiting for?"

They took the 9:20 train. It cost $12.50 for each of them and lasted twenty-five minutes. Martha did not listen. She \
was thinking about her grandmother, who had raised chickens, played the piano badly, and read three newspapers every \
day.

Dr. Wilson was waiting for them at the station. He was a tall man of eighty, with white hair and a walking stick.

"You have her eyes," he said to Martha. "And you," he said to Daniel, "have her appetite, I hope, because my wife has \
made lunch for ten."

They ate first, as there was no way around it. Mrs. Wilson asked them about their work, their health, and their plans, \
in that order. Then, at last, the old man folded his napkin and leaned forward.

"Your grandmother came to me in the winter of that year," he began. "It was late, maybe eleven o'clock, and it was \
snowing so hard that I could not see the street. She had walked two miles to get here. She put the key in my hand and \
made me promise. I asked her what it was for. Do you know what she told me?"

"No," said Martha. "What did she say?"

"She said, 'It opens the only door that I ever closed.' Then she drank a cup of tea, and she walked home again."

The new owners of the house were a young couple from the city. They had found nothing unusual, they said, apart from \
14 jars of plums in the basement and a family of mice in the roof. But there was one thing. Behind the shelves in the \
smallest bedroom there was a door that did not open, and they had not wanted to break it.

The four of them moved the shelves together. It took almost half an hour, since every shelf was full of old paper, and \
30% of the paper fell on Daniel. The door was small and green. Martha put the key in the lock, but it would not turn. \
She tried again and heard a dry little sound, like somebody stepping on a leaf.

"It moved," she whispered. "Did you hear it?"

"Push!" said Daniel.

The room behind the door was not much bigger than a closet. It had a round window, so dirty that the light came in \
yellow, and it held only three things: a chair, a desk, and a violin in an open case. On the desk there was a pile of \
paper, tied with a string. Martha blew off the dust and read the first page aloud.

"Concert No. 1 for violin," she read, "by Anna Parker. April 3, 1952."

"Anna Parker is Grandma," said Daniel slowly. "That was her name before she married. But she hated the violin! She \
always left the room when somebody played it on the radio."

"Perhaps she did not hate it," said Dr. Wilson, who had sat down on the chair. "Perhaps it hurt."

They counted the pages later. There were 212 of them, written in a small, careful hand, with hardly a mistake. There \
was also a letter from a music school in London, which offered Miss A. Parker a place in September, and a second \
letter, never sent, in which she thanked them and said no. Her mother was ill, she explained, and there were five \
younger children at home, and somebody had to stay.

Martha read that letter twice. Then she folded it and looked out of the little round window at the garden, where the \
chickens used to be.

What do you do with a gift like that? Martha called a friend who taught music at the university, and by the end of the \
week she had sent her a copy of every page. The answer came within 48 hours, and it was not about the price of paper.

"Who wrote this?" her friend asked on the phone. "Why have I never heard of her?"

The concert was played for the first time on the 5th of June, in a church hall with 160 seats and very bad heating. \
Every seat was taken. Daniel had to borrow a handkerchief before the end of the first part.

Martha kept the key. It hangs in her kitchen now, on a nail beside the door, and when visitors ask about it, she tells \
them that it does not open anything any more.
"""


def numbered_sentences(count: int) -> Iterator[str]:
    """`count` different sentences, each with its number in front."""
    return (f"{number}: {SENTENCES[number % len(SENTENCES)]}" for number in range(count))
