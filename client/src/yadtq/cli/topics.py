"""`yadtq topics`: YADTQ's topics in Kafka, made where they are missing, the task topic grown when asked to."""
from __future__ import annotations

import contextlib

import click

from yadtq.cli import exits
from yadtq.cli.context import Context, command
from yadtq.errors import TooFewPartitions
from yadtq.transport import open_admin


@click.command()
@click.option("--grow", is_flag=True, help="Give the task topic num_partitions partitions, if it has fewer.")
@command
def topics(context: Context, /, grow: bool) -> int:
    """Show YADTQ's topics and their partitions; make those that are missing.

    Growing moves tasks with a key to other partitions: for a moment newer ones may overtake older ones.

    \b
    Examples:
      yadtq topics
      yadtq -o num_partitions=16 topics --grow
    """
    settings = context.settings
    names = [settings.kafka_task_topic, settings.kafka_delayed_topic, settings.kafka_dead_letter_topic,
             settings.kafka_heartbeat_topic]
    admin = open_admin(settings)
    try:
        with contextlib.suppress(TooFewPartitions):      # what is missing has been made by then
            admin.ensure_topics(grow=grow)
        counts = {name: admin.partition_count(name) for name in names}
    finally:
        admin.close()
    if context.json:
        context.print_json({"topics": counts, "num_partitions": settings.num_partitions})
        return exits.OK
    width = max(map(len, names))
    for name, count in counts.items():
        click.echo(f"{name:<{width}}  {count:>5}")
    if counts[names[0]] < settings.num_partitions:
        click.echo(f"num_partitions is {settings.num_partitions}: `yadtq topics --grow` gives {names[0]} as many",
                   err=True)
    return exits.OK
