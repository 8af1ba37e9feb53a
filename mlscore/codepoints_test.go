package mlscore

import "testing"

// TestCodePoints checks the numbers of the registries (§17.2 to §17.5): tests with only this library's clients would
// not detect a wrong number.
func TestCodePoints(t *testing.T) {
	for name, got := range map[string][]uint16{
		"extension types":  {uint16(ExtensionApplicationID), uint16(ExtensionRatchetTree), uint16(ExtensionRequiredCapabilities), uint16(ExtensionExternalPub), uint16(ExtensionExternalSenders)},
		"proposal types":   {uint16(ProposalAdd), uint16(ProposalUpdate), uint16(ProposalRemove), uint16(ProposalPSK), uint16(ProposalReInit), uint16(ProposalExternalInit), uint16(ProposalGroupContextExtensions)},
		"credential types": {uint16(CredentialBasic), uint16(CredentialX509)},
		"wire formats":     {uint16(WireFormatPublicMessage), uint16(WireFormatPrivateMessage), uint16(WireFormatWelcome), uint16(WireFormatGroupInfo), uint16(WireFormatKeyPackage)},
		"content types":    {uint16(ContentApplication), uint16(ContentProposal), uint16(ContentCommit)},
		"sender types":     {uint16(SenderMember), uint16(SenderExternal), uint16(SenderNewMemberProposal), uint16(SenderNewMemberCommit)},
		"leaf sources":     {uint16(SourceKeyPackage), uint16(SourceUpdate), uint16(SourceCommit)},
		"PSK types":        {uint16(PSKExternal), uint16(PSKResumption)},
		"PSK usages":       {uint16(UsageApplication), uint16(UsageReInit), uint16(UsageBranch)},
	} {
		for i, v := range got {
			if int(v) != i+1 {
				t.Errorf("%s: place %d has the code point %d", name, v, i+1)
			}
		}
	}
	for v := range uint16(8) {
		if got := ExtensionType(v).isDefault(); got != (v >= 1 && v <= 5) {
			t.Errorf("extension type %d is default: %v", v, got)
		}
	}
	grease := 0
	for v := range 1 << 16 {
		if isGREASE(uint16(v)) {
			grease++
		}
	}
	for _, v := range []uint16{0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x4a4a, 0x5a5a, 0x6a6a, 0x7a7a, 0x8a8a, 0x9a9a, 0xaaaa, 0xbaba, 0xcaca, 0xdada, 0xeaea} {
		if !isGREASE(v) {
			t.Errorf("%#x is not taken for GREASE", v)
		}
	}
	if grease != 15 {
		t.Errorf("%d code points are taken for GREASE, 15 are", grease)
	}
}
