"""Images of sessions, and manifests of training data."""

import hashlib
import struct
import time
import uuid

from training.core import Core, Refused, Violation
from training.schema import m


def _size_of(data):
    """Width and height of a PNG or a JPEG."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:2] == b"\xff\xd8":
        at = 2
        while at + 9 <= len(data) and data[at] == 0xff:
            kind, length = data[at + 1], struct.unpack(">H", data[at + 2:at + 4])[0]
            if 0xc0 <= kind <= 0xcf and kind not in (0xc4, 0xc8, 0xcc):
                height, width = struct.unpack(">HH", data[at + 5:at + 9])
                return width, height
            at += 2 + length
    raise Violation("neither a PNG nor a JPEG")


class Storage(Core):
    def UploadImage(self, request, call, fault):
        self.feature("session_image_handles_v1", "UploadImage", "UNIMPLEMENTED")
        session = self.session(request.session_id)
        key, digest = request.idempotency_key, hashlib.sha256(request.data).hexdigest()
        try:
            uuid.UUID(key)
        except ValueError:
            raise Violation(f"the idempotency_key {key!r} is not a UUID") from None
        width, height = _size_of(request.data)
        known = session.images.get(key)
        if known is not None:
            if known["released"]:
                raise Refused("FAILED_PRECONDITION", f"the key {key} was released")
            if known["handle"].sha256 != digest:
                raise Refused("ALREADY_EXISTS", f"the key {key} names another image")
            self.ledger.bump("idempotent_replays")
            known["used"], known["expired"] = time.monotonic(), False
            return known["handle"]
        handle = m.ImageHandle(id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{session.id}:{key}")), sha256=digest,
                               byte_count=len(request.data), width=width, height=height, session_id=session.id)
        session.images[key] = self.images[handle.id] = {"handle": handle, "used": time.monotonic(),
                                                        "released": False, "expired": False}
        return handle

    def use_image(self, handle, session):
        """An accepted request names the image."""
        image = self.images.get(handle)
        if image is None or (session is not None and image["handle"].session_id != session.id):
            raise Refused("NOT_FOUND", f"no image {handle}")
        if time.monotonic() - image["used"] > self.config["image_ttl"]:
            image["expired"] = True
        if image["released"] or image["expired"]:
            raise Refused("FAILED_PRECONDITION", f"image {handle} has expired",
                          {"river-error-code": "IMAGE_EXPIRED", "river-image-id": handle})
        image["used"] = time.monotonic()

    def ReleaseImage(self, request, call, fault):
        session = self.session(request.session_id)
        named = [bool(request.image_handle), bool(request.idempotency_key), request.close_session]
        if sum(named) != 1:
            raise Violation("exactly one of image_handle, idempotency_key and close_session is wanted")
        for key, image in session.images.items():
            if request.close_session or key == request.idempotency_key or image["handle"].id == request.image_handle:
                image["released"] = True
        return m.ReleaseImageResponse()

    def CreateTrainingDataAttestation(self, request, call, fault):
        self.session(request.session_id)
        if not request.artifacts:
            raise Violation("no artifacts")
        response = m.CreateTrainingDataAttestationResponse(training_data_attestation_id=self.next_id("att"))
        for artifact in request.artifacts:
            digest = hashlib.sha256(artifact.content).hexdigest()
            if not artifact.name:
                raise Violation("an artifact without a name")
            if artifact.expected_sha256 and artifact.expected_sha256 != digest:
                raise Refused("INVALID_ARGUMENT", f"{artifact.name} has the SHA-256 {digest}, "
                              f"{artifact.expected_sha256} was expected")
            response.artifacts.add(name=artifact.name, sha256=digest, size_bytes=len(artifact.content))
        self.attestations[response.training_data_attestation_id] = request.session_id
        return response
