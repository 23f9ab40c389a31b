"""Writes layers.csv: trouble tickets of a radio access network, and the protocol layer that each is about.

Every sentence is our own. A template stands in one split only, so test rows are sentences that training never saw; the
layers' names stand in none. Words such as retransmission, sequence number, timer, window, buffer, handover, grant and
report stand in sentences of several layers, as they do in the field.

Run it from anywhere: python resources/finetune/make_layers.py
"""

import csv
from pathlib import Path

import numpy as np

SEED = 17
FILLS = 5
"""Rows of each template."""
N_VALIDATION, N_TEST = 3, 6
"""Templates of each class, the last ones, that are held out."""

OPENINGS = ("", "", "", "Since the last update ", "During the drive test ", "At night ", "On two sites ", "Under load ",
            "After the restart ", "In the lab ", "For indoor users ", "With the new handset ")  # fmt: skip
CLOSINGS = ("", "", "", ", see trace {n}", ", first seen in week {w}", ", not seen before", ", ticket reopened",
            ", happens about {n} times an hour", ", vendor informed", ", cannot be reproduced with one user")  # fmt: skip

TEMPLATES = {
    "phy": (
        "the constellation of UE {ue} is rotated after equalisation",
        "channel estimates are noisy between the pilot symbols of cell {cell}",
        "the decoder needs {n} iterations before the parity checks hold",
        "the cyclic prefix is too short for the delay spread at site {cell}",
        "measured SNR of UE {ue} drops by {db} dB when the antenna is tilted",
        "carrier frequency offset of {n} Hz is not compensated",
        "the power amplifier of sector {cell} clips and the error vector magnitude rises",
        "beam sweep picks the weaker beam for UE {ue}",
        "noise floor of the receiver rose by {db} dB in the upper band",
        "the demodulator gives wrong soft bits for 256-QAM",
        "CRC errors on the shared channel rise with the speed of the car",
        "FFT window starts {n} samples too late and symbols leak into each other",
        "synchronisation signal of cell {cell} is not detected at low temperature",
        "transmit power of UE {ue} stays {db} dB under its target although the gain is at its limit",
        "precoding matrix and reported rank do not fit for four antenna ports",
        # validation
        "phase noise of the oscillator smears the subcarriers of cell {cell}",
        "interference from the neighbouring sector hides the reference signal",
        "block error rate of the code rate {n}/100 is {db} dB worse than in simulation",
        # test
        "the received waveform of UE {ue} shows strong Doppler shift and the equaliser loses track",
        "log-likelihood ratios saturate and decoding of the code word fails",
        "signal strength at the antenna connector of site {cell} is {db} dB too low",
        "subcarrier spacing and symbol length disagree so that the spectrum overlaps",
        "the receiver cannot separate the two layers because the channel matrix is badly conditioned",
        "spurious emission in the adjacent band exceeds the mask by {db} dB",
    ),
    "mac": (
        "UE {ue} sends scheduling requests but gets no uplink grant for {n} ms",
        "the scheduler starves users at the cell edge while UE {ue} gets every slot",
        "buffer status report of UE {ue} shows {n} kB and the allocation stays at its minimum",
        "HARQ process {p} of UE {ue} is stuck and its retransmission is never scheduled",
        "the random access response arrives after the window of the preamble",
        "two users pick the same preamble and contention is never resolved",
        "the timing advance command is sent twice to UE {ue}",
        "low priority logical channels are multiplexed into the transport block first",
        "padding fills half of the transport block although data wait in the queue",
        "proportional fair weights are not updated when UE {ue} joins cell {cell}",
        "new data indicator is not toggled, so UE {ue} takes new data for a repetition",
        "resource blocks are assigned to two users in the same slot",
        "grants of UE {ue} are wasted because the prioritised bit rate is counted twice",
        "the activation element for the secondary cell is lost in the subheader",
        "discontinuous reception lets UE {ue} sleep through its downlink assignments",
        # validation
        "slot {n}: the allocation for cell {cell} is larger than the number of free resource blocks",
        "a power headroom report of UE {ue} is parsed with the wrong length",
        "the backoff after a failed preamble is always zero",
        # test
        "UE {ue} waits {n} slots for its turn although the cell is half empty",
        "the downlink scheduler repeats process {p} with another size of the transport block",
        "uplink users with little data are served before those with full buffers",
        "preamble {p} is answered for the wrong user and access takes {n} attempts",
        "resource allocation ignores the priority of the logical channels of UE {ue}",
        "semi-persistent grants of UE {ue} are not released when its queue is empty",
    ),
    "rlc": (
        "reassembly of segments fails when the last segment arrives first",
        "status report of UE {ue} acknowledges a sequence number that was never sent",
        "the maximum number of retransmissions is reached and the bearer is dropped",
        "polling bit is not set although {n} bytes were sent since the last poll",
        "segment offset of a resegmented unit is off by one byte",
        "in unacknowledged mode partial units stay in the reassembly buffer for ever",
        "the transmit window of UE {ue} stalls because no acknowledgement moves it",
        "negative acknowledgements list {n} segments and all of them are sent twice",
        "the prohibit timer of status reports is started although no report was sent",
        "acknowledged mode entity of UE {ue} is re-established and old segments are kept",
        "a retransmitted segment is larger than the grant and is not split again",
        "the poll retransmit timer expires {n} ms after the last data",
        "gaps in the receive window are reported before the reassembly timer runs out",
        "transparent mode entity adds a header to the broadcast message",
        "segmentation flag says first segment but the unit is complete",
        # validation
        "UE {ue} asks for the same missing segment {n} times",
        "the entity drops units outside of its receive window without a status report",
        "units are cut into {n} segments although they would fit in one piece",
        # test
        "after {n} repetitions of a lost segment the sender gives up and declares failure",
        "the receiver puts segments together in the wrong order and the length does not match",
        "acknowledgement of UE {ue} arrives but its units stay in the retransmission queue",
        "no poll is sent when the last unit leaves the buffer and the window stays blocked",
        "unacknowledged mode loses the tail of a unit that was split over {n} transmissions",
        "status of the receive window is sent too often and half of the uplink is acknowledgements",
    ),
    "pdcp": (
        "integrity check of UE {ue} fails after the key change",
        "header compression of voice packets loses its context on cell {cell}",
        "deciphering gives random bytes when the hyper frame number wraps",
        "packets are delivered out of order after the handover of UE {ue}",
        "the reordering timer waits {n} ms for a packet that was discarded",
        "discard timer throws voice packets away after {n} ms although they were just queued",
        "duplicate packets of the split bearer are handed to the upper layer",
        "the sequence number of UE {ue} jumps by {n} and the key stream does not fit any more",
        "IP headers are sent uncompressed to UE {ue} although the profile is set",
        "data recovery after the handover sends packets that were already confirmed",
        "a packet with a wrong message authentication code is not dropped",
        "null ciphering is used for the signalling bearer of UE {ue}",
        "the count value differs between the two sides after {n} packets",
        "security algorithm of the bearer is changed but old packets use the old key",
        "routing of the split bearer sends all packets over the secondary leg",
        # validation
        "encryption starts one packet too late for UE {ue}",
        "robust header compression feedback is dropped and the context is never repaired",
        "forwarded packets get new sequence numbers at the target cell {cell}",
        # test
        "UE {ue} receives packets that cannot be decrypted with the current key",
        "IP packets reach the application in the wrong order on the split bearer",
        "compressed headers are rebuilt with a wrong port number for UE {ue}",
        "tampered packets pass because the authentication code is not verified",
        "the same packet arrives over both legs and is delivered twice",
        "old packets are not thrown away when their discard time of {n} ms has passed",
    ),
    "rrc": (
        "connection setup of UE {ue} is rejected with a wait time of {n} s",
        "the reconfiguration message for UE {ue} lists a bearer that does not exist",
        "measurement reports of neighbour cell {cell} never trigger the handover command",
        "UE {ue} is released with cause other while a call is active",
        "paging of idle users in the tracking area of cell {cell} has no answer",
        "system information of cell {cell} says barred although it is in service",
        "re-establishment request of UE {ue} is refused because its context is gone",
        "UE {ue} stays in the inactive state and does not resume",
        "capability enquiry is sent before security is activated",
        "the handover command of UE {ue} names a target cell that is switched off",
        "event A{p} is configured with the wrong threshold for cell {cell}",
        "the inactivity timer of {n} s sends UE {ue} to idle in the middle of a download",
        "security mode command is answered by a failure message of UE {ue}",
        "broadcast of the system information changes but users are not notified",
        "the setup complete message of UE {ue} lacks the selected network",
        # validation
        "UE {ue} camps on cell {cell} although the cell is reserved for operators",
        "resume request of UE {ue} is answered by a new setup",
        "the neighbour list in the measurement configuration misses cell {cell}",
        # test
        "UE {ue} is told to hand over to cell {cell} but reports no measurement of it",
        "the network releases the connection of UE {ue} right after its setup",
        "idle users are not paged when a call arrives for them",
        "UE {ue} answers the reconfiguration with a failure and goes back to idle",
        "cell {cell} broadcasts an outdated system information block",
        "the connection request of UE {ue} is never answered and its setup timer runs out",
    ),
}


def rows() -> list[tuple[str, str, str]]:
    """Return text, label and split of every row; the same at every call."""
    rng = np.random.default_rng([SEED, 1])
    out: list[tuple[str, str, str]] = []
    for label, templates in TEMPLATES.items():
        first_test = len(templates) - N_TEST
        for place, template in enumerate(templates):
            split = "test" if place >= first_test else "train" if place < first_test - N_VALIDATION else "validation"
            texts: list[str] = []
            while len(texts) < FILLS:
                text = _filled(f"{rng.choice(OPENINGS)}{template}{rng.choice(CLOSINGS)}", rng)
                if text not in texts:
                    texts.append(text)
            out += [(text, label, split) for text in texts]
    return [out[i] for i in rng.permutation(len(out))]


def _filled(template: str, rng: np.random.Generator) -> str:
    text = template.format(
        ue=rng.integers(1, 400),
        cell=rng.integers(1, 90),
        n=rng.integers(2, 95),
        db=rng.integers(2, 12),
        p=rng.integers(0, 8),
        w=rng.integers(1, 53),
    )
    return text[0].upper() + text[1:]


def write(path: Path) -> None:
    """Write the table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("text", "label", "split"))
        writer.writerows(rows())


if __name__ == "__main__":
    write(Path(__file__).with_name("layers.csv"))
