"""A broker with listeners that insist: SASL over TLS, mutual TLS, and one whose certificate is for another host.

    server = SecureKafka(folder); server.start()
    server.options()                    # the settings that reach it: SCRAM-SHA-512 over TLS
    server.port                         # plain, for whoever only looks

Its user has the rights that docs/security.md names, and no other; topics and groups are those of its test, by prefix.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.services import LOOPBACK, ROOT, KafkaServer, random_free_port
from yadtq.config import Settings
from yadtq.transport import open_admin

USER, PASSWORD = "yadtq", "s3cret pass;word"
_LOGIN = "org.apache.kafka.common.security"
PLACES = ("SASL", "PLAIN", "MUTUAL", "MISNAMED")


class SecureKafka(KafkaServer):
    """See above; `ports` has the port of each listener."""

    ready_s = 180.0             # five listeners and an authorizer, on a machine that is busy

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ports = {name: random_free_port() for name in PLACES}
        self.ca = Authority(folder)
        self.server, self.client = self.ca.sign("server"), self.ca.sign("client")
        self.misnamed = self.ca.sign("misnamed", "DNS:elsewhere.example")

    def properties(self) -> str:
        """With a listener more for each of PLACES."""
        listeners = {"PLAINTEXT": self.port} | self.ports
        advertised = ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items())
        return super().properties() + f"""
listeners={advertised},CONTROLLER://{LOOPBACK}:{self.controller_port}
advertised.listeners={advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,PLAIN:SASL_SSL,MUTUAL:SSL,MISNAMED:SASL_SSL
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256
listener.name.plain.sasl.enabled.mechanisms=PLAIN
listener.name.plain.plain.sasl.jaas.config={_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";
{self._scram("sasl")}
{self._scram("misnamed")}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
ssl.keystore.type=PEM
ssl.keystore.location={self.server.both}
listener.name.misnamed.ssl.keystore.type=PEM
listener.name.misnamed.ssl.keystore.location={self.misnamed.both}
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location={self.ca.cert}
"""

    @staticmethod
    def _scram(listener: str) -> str:
        return "\n".join(f"listener.name.{listener}.scram-sha-{size}.sasl.jaas.config="
                         f"{_LOGIN}.scram.ScramLoginModule required;" for size in (256, 512))

    def start(self, *arguments: Any) -> None:
        """With the rights that docs/security.md tells administrators to grant, for the names of this broker's user."""
        super().start(*arguments)
        admin: Any = open_admin(Settings(kafka_servers=self.bootstrap))
        admin._admin.create_acls([acl for line in documented_rights() for acl in _acls(line)])
        admin.close()

    def format(self, cluster_id: str, *options: str) -> None:
        """The users are in the metadata from the first record on."""
        users = [word for size in (256, 512) for word in
                 ("--add-scram", f"SCRAM-SHA-{size}=[name={USER},password={PASSWORD}]")]
        super().format(cluster_id, *options, *users)

    def options(self, place: str = "SASL", mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
        """The settings for one of its listeners."""
        found: dict[str, Any] = {"kafka_servers": f"{LOOPBACK}:{self.ports[place]}",
                                 "kafka_ssl_ca_file": str(self.ca.cert)}
        if place == "MUTUAL":
            return found | {"kafka_security_protocol": "SSL", "kafka_ssl_cert_file": str(self.client.cert),
                            "kafka_ssl_key_file": str(self.client.key)}
        return found | {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": mechanism,
                        "kafka_sasl_username": USER, "kafka_sasl_password": PASSWORD}


def documented_rights() -> list[str]:
    """The arguments of kafka-acls.sh in docs/security.md, a line each."""
    lines = [line.strip() for line in (ROOT / "docs" / "security.md").read_text().splitlines()]
    return [line for line in lines if line.startswith("--") and "--operation" in line]


def _acls(line: str) -> list[Any]:
    """Those of one line; of topics and groups for all names, since each test has its own."""
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    words = line.split()
    kind = next(word for word in ("topic", "group", "cluster") if f"--{word}" in words)
    where = ResourcePattern(ResourceType[kind.upper()], "kafka-cluster" if kind == "cluster" else "*")
    operations = [re.sub(r"(?<=[a-z])([A-Z])", r"_\1", words[at + 1]).upper()
                  for at, word in enumerate(words) if word == "--operation"]
    return [ACL(principal, "*", ACLOperation[operation], ACLPermissionType.ALLOW, where)
            for principal in (f"User:{USER}", "User:CN=client") for operation in operations]
